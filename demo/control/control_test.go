package control

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeServer records what happens to it.
type fakeServer struct {
	mu     sync.Mutex
	did    []string
	faults int // how often Start fails
}

func (s *fakeServer) Reload() error { return s.do("reload") }
func (s *fakeServer) Stop() error   { return s.do("stop") }
func (s *fakeServer) Start() error  { return s.do("start") }

func (s *fakeServer) do(what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, what)
	if what == "start" && s.faults > 0 {
		s.faults--
		return errors.New("the port is in use")
	}
	return nil
}

// wantDone checks what has happened to the server.
func (s *fakeServer) wantDone(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.did, want) {
		t.Errorf("what has happened is %q, want %q", s.did, want)
	}
}

// ask sends a request as the page does, or as a page of another site.
func ask(c *Control, method, path, site string) (status int, reply string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Sec-Fetch-Site", site)
	c.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestThePageReloadsAndStopsTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{faults: 1}
		c := New(s, "http://127.0.0.1:3000/ui/", true)
		for _, step := range []struct {
			request string
			status  int
			reply   string
		}{
			{"GET /demo/state", http.StatusOK, `{"inspector":"http://127.0.0.1:3000/ui/","journal":true,"seconds":5}`},
			{"POST /demo/reload", http.StatusOK, `{"milliseconds":0}`},
			{"POST /demo/stop", http.StatusOK, `{}`},
			{"POST /demo/stop", http.StatusConflict, ""},
			{"POST /demo/reload", http.StatusConflict, ""},
		} {
			method, path, _ := strings.Cut(step.request, " ")
			if status, reply := ask(c, method, path, "same-origin"); status != step.status || reply != step.reply {
				t.Errorf("%s: %d %s", step.request, status, reply)
			}
		}
		time.Sleep(c.Pause)
		synctest.Wait()
		s.wantDone(t, "reload", "stop")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s.wantDone(t, "reload", "stop", "start", "start")
		if status, _ := ask(c, http.MethodPost, "/demo/reload", "same-origin"); status != http.StatusOK {
			t.Errorf("reload after the start: %d", status)
		}
	})
}

func TestOtherSitesCannotUseIt(t *testing.T) {
	s := &fakeServer{}
	c := New(s, "", false)
	for _, path := range []string{"/demo/reload", "/demo/stop"} {
		if status, _ := ask(c, http.MethodPost, path, "cross-site"); status != http.StatusForbidden {
			t.Errorf("%s: %d", path, status)
		}
	}
	s.wantDone(t)
}

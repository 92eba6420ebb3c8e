package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestExitWithWebhooks: what was deleted before the process exits is announced, if the receiver takes it, and is
// logged as lost if it does not. Neither holds up the exit.
func TestExitWithWebhooks(t *testing.T) {
	for name, status := range map[string]int{"taken": http.StatusOK, "not taken": http.StatusBadGateway} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			announced := map[string]bool{}
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				var told struct{ Channels []string }
				if err != nil || json.Unmarshal(body, &told) != nil {
					t.Errorf("%q, %v", body, err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, c := range told.Channels {
					announced[c] = true
				}
				w.WriteHeader(status)
			}))
			defer receiver.Close()
			s := testserver.New(t)
			// The line about what is lost goes to the log for it, as long as the process lives.
			s.Start(fmt.Sprintf("log {\nexclude megaphone\n}\nlog mega {\ninclude megaphone\n}\nmegaphone {\nttl 1s\nwebhook channel_deleted %s/hook\n}", receiver.URL),
				"http:// {\nbind unix/"+s.Socket("site")+"\nmegaphone\n}")
			client := testserver.UnixClient(t, s.Socket("site"))
			post := func(path, body string) string {
				response, err := client.Post("http://localhost"+path, "application/json", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			var c struct{ ConsumerAddress string }
			if err := json.Unmarshal([]byte(post("/create", "")), &c); err != nil {
				t.Fatal(err)
			}
			// The channel is found expired by a question for it, and that is announced with the next sweep.
			for deadline := time.Now().Add(20 * time.Second); strings.Contains(post("/channelsExists", `{"channels":["`+c.ConsumerAddress+`"]}`), "true"); {
				if time.Now().After(deadline) {
					t.Fatal("the channel does not expire")
				}
			}
			start := time.Now()
			s.Signal(syscall.SIGTERM)
			<-s.Done()
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the exit took %v", took)
			}
			mu.Lock()
			defer mu.Unlock()
			if !announced[c.ConsumerAddress] {
				t.Error("the channel was not announced")
			}
			lost := strings.Contains(s.Log(), "announcements are lost")
			if lost != (status != http.StatusOK) {
				t.Errorf("logged as lost: %v", lost)
			}
			if _, secret, _ := strings.Cut(c.ConsumerAddress, "."); strings.Contains(s.Log(), secret[4:]) {
				t.Error("the log has the secret")
			}
		})
	}
}

// TestMetricsPage: the configuration that docs/metrics.md shows lets metrics be scraped, from a site and from the
// admin endpoint.
func TestMetricsPage(t *testing.T) {
	s := testserver.New(t)
	site, sites := s.Socket("site"), s.Socket("metrics")
	s.Start("", "http:// {\nbind unix/"+site+"\nmegaphone\n}\nhttp://metrics {\nbind unix/"+sites+"\nmetrics\n}")
	if _, err := testserver.UnixClient(t, site).Post("http://localhost/create", "", nil); err != nil {
		t.Fatal(err)
	}
	for url, client := range map[string]*http.Client{
		"http://localhost/metrics": s.Admin(), "http://metrics/metrics": testserver.UnixClient(t, sites),
	} {
		response, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !strings.Contains(string(body), "\ncaddy_megaphone_channels_created_total 1\n") {
			t.Errorf("%s: %s %v", url, response.Status, err)
		}
	}
}

package megaphone_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestAPollTakesOverWithACursor(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	path := c.readPath()
	s.write(c, "1")
	r := s.read(c)
	eid := r.next().EID
	s.poll(c).wantError(t, 409, "BUSY")

	later := make(chan reply, 1)
	go func() { later <- s.get(path + "?poll=10s&after=" + eid) }()
	r.ends()
	last := s.get(path + "?poll=0&after=" + eid) // takes over from the first poll
	if first := <-later; first.StatusCode != 200 || first.body != "" || last.StatusCode != 200 || last.body != "" {
		t.Errorf("polls: %d %q, then %d %q", first.StatusCode, first.body, last.StatusCode, last.body)
	}
	s.write(c, "2")
	if r := s.poll(c); strings.Count(r.body, "\n") != 1 || !strings.Contains(r.body, `"body":2}`) {
		t.Errorf("poll %q", r.body)
	}
}

func TestAPollWhoseClientIsGoneTakesNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	url := "http://localhost" + c.readPath() + "?after=&poll=10s"
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.Do(r); err == nil {
			t.Fatal("the poll does not wait")
		}
		cancel()
	}
	s.write(c, "1")
	r := s.poll(c)
	for r.StatusCode == http.StatusConflict { // the server has not noticed yet that the client is gone
		r = s.poll(c)
	}
	if strings.Count(r.body, "\n") != 1 {
		t.Errorf("poll: %d %q", r.StatusCode, r.body)
	}
}

func TestPoll(t *testing.T) {
	s := serve(t, "megaphone {\nin_flight 2\nread_duration 100ms\n}", "megaphone")
	c := s.create()
	path := c.readPath()
	poll := func(query string) reply {
		t.Helper()
		r := s.get(path + "?" + query)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/x-ndjson" || r.ContentLength != int64(len(r.body)) {
			t.Fatalf("%d %v %q", r.StatusCode, r.Header, r.body)
		}
		return r
	}
	if r := poll("poll=0"); r.body != "" {
		t.Errorf("poll of an empty channel: %q", r.body)
	}
	start := time.Now()
	poll("poll=1h")
	if took := time.Since(start); took < 100*time.Millisecond || took > 10*time.Second {
		t.Errorf("a poll for an hour took %v, want the read duration", took)
	}

	later := make(chan reply)
	go func() { later <- s.get(path + "?poll=10s") }()
	s.write(c, "1")
	if r := <-later; strings.Count(r.body, "\n") != 1 {
		t.Errorf("poll that waited for a message: %q", r.body)
	}
	s.write(c, "2")
	s.write(c, "3")
	var eids []string
	for range 2 { // without a cursor, a poll gets the same messages again, as many as the window holds
		r := poll("poll=0")
		eids = nil
		for _, match := range regexp.MustCompile(`"eid":"([^"]+)"`).FindAllStringSubmatch(r.body, -1) {
			eids = append(eids, match[1])
		}
		if len(eids) != 2 {
			t.Fatalf("poll %q", r.body)
		}
	}
	r := poll("poll=0&after=" + eids[1])
	if strings.Count(r.body, "\n") != 1 || r.Header.Get("Megaphone-Resume") != "complete" {
		t.Errorf("poll after a cursor: %v %q", r.Header, r.body)
	}
	for _, wait := range []string{"", "-1s", "5", "soon"} {
		s.get(path+"?poll="+wait).wantError(t, 400, "BAD_REQUEST")
	}
}

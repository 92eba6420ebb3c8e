package megaphone_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestCursors(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 100ms\n}", "megaphone")
	c := s.create()
	path := "/read/" + c.ConsumerAddress
	for i := range 3 {
		s.write(c, fmt.Sprint(i))
	}
	r := s.read(path)
	first := r.next()
	r.wants("1", "2")

	// A reader with a cursor takes over.
	next := s.read(path + "?after=" + first.EID)
	r.ends()
	if resume := next.response.Header.Get("Megaphone-Resume"); resume != "complete" {
		t.Errorf("resume %q", resume)
	}
	second := next.next()
	next.ends("2")

	// The channel follows cursors now: a clean end has settled nothing, and the header wins over the query.
	header := http.Header{"Last-Event-Id": {second.EID}}
	response := s.open(http.MethodGet, path+"?after="+first.EID, header, nil)
	(&read{t, response, bufio.NewReader(response.Body)}).ends("2")

	for cursor, resume := range map[string]string{first.EID: "gap", second.EID: "complete", "garbage": "gap", "": ""} {
		r := s.read(path + "?after=" + cursor)
		if got := r.response.Header.Get("Megaphone-Resume"); got != resume {
			t.Errorf("resume %q from %q, want %q", got, cursor, resume)
		}
		r.ends("2")
	}
}

func TestCursorsOfOddRequests(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 100ms\n}", "megaphone")
	c := s.create()
	path := "/read/" + c.ConsumerAddress
	s.write(c, "1")
	s.write(c, "2")
	r := s.read(path)
	eid := r.next().EID
	r.wants("2")

	// An empty header is a cursor too: it takes over, settles nothing, and wins.
	response := s.open(http.MethodGet, path+"?after="+eid, http.Header{"Last-Event-Id": {""}}, nil)
	r.ends()
	(&read{t, response, bufio.NewReader(response.Body)}).ends("1", "2")

	// What contradicts itself is refused, and ends nobody's read.
	r = s.read(path + "?after=")
	for _, query := range []string{"?after=&after=" + eid, "?poll=0&poll=1s&after=" + eid} {
		s.get(path+query).wantError(t, 400, "BAD_REQUEST")
	}
	s.do(http.MethodGet, path, http.Header{"Last-Event-Id": {eid, eid}}, nil).wantError(t, 400, "BAD_REQUEST")

	// Nor does HEAD take over, or settle anything.
	for _, query := range []string{"", "?after=" + eid, "?poll=0&after=" + eid} {
		if r := s.do(http.MethodHead, path+query, http.Header{"Accept": {"text/event-stream"}}, nil); r.StatusCode != 200 || r.body != "" {
			t.Errorf("HEAD %s: %d %q", query, r.StatusCode, r.body)
		}
	}
	r.ends("1", "2")
}

func TestAPollTakesOverWithACursor(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	path := "/read/" + c.ConsumerAddress
	s.write(c, "1")
	r := s.read(path)
	eid := r.next().EID
	s.get(path+"?poll=0").wantError(t, 409, "BUSY")

	later := make(chan reply, 1)
	go func() { later <- s.get(path + "?poll=10s&after=" + eid) }()
	r.ends()
	last := s.get(path + "?poll=0&after=" + eid) // a second one takes over from the first
	if first := <-later; first.StatusCode != 200 || first.body != "" || last.StatusCode != 200 || last.body != "" {
		t.Errorf("polls: %d %q, then %d %q", first.StatusCode, first.body, last.StatusCode, last.body)
	}
	s.write(c, "2")
	if r := s.get(path + "?poll=0"); strings.Count(r.body, "\n") != 1 || !strings.Contains(r.body, `"body":2}`) {
		t.Errorf("poll %q", r.body)
	}
}

func TestAPollWhoseClientIsGoneTakesNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	path := "http://localhost/read/" + c.ConsumerAddress + "?after=&poll=10s"
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.Do(r); err == nil {
			t.Fatal("the poll has not waited")
		}
		cancel()
	}
	s.write(c, "1")
	var r reply
	for r = s.get("/read/" + c.ConsumerAddress + "?poll=0"); r.StatusCode == http.StatusConflict; {
		r = s.get("/read/" + c.ConsumerAddress + "?poll=0") // until the server has noticed
	}
	if strings.Count(r.body, "\n") != 1 {
		t.Errorf("poll: %d %q", r.StatusCode, r.body)
	}
}

func TestPoll(t *testing.T) {
	s := serve(t, "megaphone {\nin_flight 2\nread_duration 100ms\n}", "megaphone")
	c := s.create()
	path := "/read/" + c.ConsumerAddress
	poll := func(query string) reply {
		t.Helper()
		r := s.get(path + "?" + query)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/x-ndjson" || r.ContentLength != int64(len(r.body)) {
			t.Fatalf("%d %v %q", r.StatusCode, r.Header, r.body)
		}
		return r
	}
	if r := poll("poll=0"); r.body != "" {
		t.Errorf("poll of nothing: %q", r.body)
	}
	start := time.Now()
	poll("poll=1h")
	if took := time.Since(start); took < 100*time.Millisecond || took > 10*time.Second {
		t.Errorf("a poll for an hour has taken %v, want the read duration", took)
	}

	later := make(chan reply)
	go func() { later <- s.get(path + "?poll=10s") }()
	s.write(c, "1")
	if r := <-later; strings.Count(r.body, "\n") != 1 {
		t.Errorf("poll that waited: %q", r.body)
	}
	s.write(c, "2")
	s.write(c, "3")
	var eids []string
	for range 2 { // it comes again, no more than the window holds, until a cursor is shown
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

package megaphone_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestCursors(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 100ms\n}", "megaphone")
	c := s.create()
	path := c.readPath()
	for i := range 3 {
		s.write(c, fmt.Sprint(i))
	}
	r := s.read(c)
	first := r.next()
	r.wants("1", "2")

	// A reader with a cursor takes over.
	next := s.readAfter(c, first.EID)
	r.ends()
	if resume := next.response.Header.Get("Megaphone-Resume"); resume != "complete" {
		t.Errorf("resume %q", resume)
	}
	second := next.next()
	next.ends("2")

	// The channel follows cursors now, so a clean end has settled nothing. The header counts, not the query.
	header := http.Header{"Last-Event-Id": {second.EID}}
	s.openRead(path+"?after="+first.EID, header).ends("2")

	for cursor, resume := range map[string]string{first.EID: "gap", second.EID: "complete", "garbage": "gap", "": ""} {
		r := s.readAfter(c, cursor)
		if got := r.response.Header.Get("Megaphone-Resume"); got != resume {
			t.Errorf("after %q: resume %q, want %q", cursor, got, resume)
		}
		r.ends("2")
	}
}

// TestCursorsInTheQueryOfLibraries: lastEventId is what Yaffle's EventSource polyfill adds to an address. It means the
// same as after, on every transport.
func TestCursorsInTheQueryOfLibraries(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 20ms\nstream_duration 20ms\n}", "megaphone")
	c := s.create()
	for _, body := range []string{"1", "2", "3", "4"} {
		s.write(c, body)
	}
	first := s.poll(c)
	ids := regexp.MustCompile(`"eid":"([^"]+)"`).FindAllStringSubmatch(first.body, -1)
	if len(ids) != 4 {
		t.Fatal(first.body)
	}
	eid := func(i int) string { return ids[i-1][1] }
	for _, test := range []struct {
		query, header string
		want          []string
	}{
		{"?lastEventId=" + eid(1), "", []string{"2", "3", "4"}},
		{"?lastEventId=" + eid(4) + "&after=" + eid(2), "", []string{"3", "4"}},
		{"?lastEventId=" + eid(4) + "&after=" + eid(4), eid(2), []string{"3", "4"}},
		{"?lastEventId=" + eid(4), eid(2), []string{"3", "4"}},
		{"?lastEventId=", "", []string{"3", "4"}}, // follows cursors, and has nothing to show
	} {
		header := http.Header{}
		if test.header != "" {
			header.Set("Last-Event-ID", test.header)
		}
		r := s.do(http.MethodGet, c.readPath()+test.query+"&poll=0", header, nil)
		if n := strings.Count(r.body, "\n"); n != len(test.want) || !strings.Contains(r.body, `"body":`+test.want[0]+"}") {
			t.Errorf("poll with %+v: %s", test, r.body)
		}
		s.openRead(c.readPath()+test.query, header).ends(test.want...)
		header.Set("Accept", "text/event-stream")
		r = s.do(http.MethodGet, c.readPath()+test.query, header, nil)
		if n := strings.Count(r.body, "data: {"); n != len(test.want) || !strings.Contains(r.body, `"body":`+test.want[0]+"}") {
			t.Errorf("SSE with %+v: %s", test, r.body)
		}
	}
	s.wantMessages(s.dial(c, "?lastEventId="+eid(3)), "4")
	s.get(c.readPath()+"?poll=0&lastEventId=a&lastEventId=b").wantError(t, 400, "BAD_REQUEST")
}

func TestCursorsOfUnusualRequests(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 100ms\n}", "megaphone")
	c := s.create()
	path := c.readPath()
	s.write(c, "1")
	s.write(c, "2")
	r := s.read(c)
	eid := r.next().EID
	r.wants("2")

	// An empty header is a cursor too: it takes over, settles nothing, and counts instead of the query.
	successor := s.openRead(path+"?after="+eid, http.Header{"Last-Event-Id": {""}})
	r.ends()
	successor.ends("1", "2")

	// A request with two cursors is refused, and does not end the read of another client.
	r = s.readAfter(c, "")
	for _, query := range []string{"?after=&after=" + eid, "?poll=0&poll=1s&after=" + eid} {
		s.get(path+query).wantError(t, 400, "BAD_REQUEST")
	}
	s.do(http.MethodGet, path, http.Header{"Last-Event-Id": {eid, eid}}, nil).wantError(t, 400, "BAD_REQUEST")

	// HEAD does not take over, and settles nothing.
	for _, query := range []string{"", "?after=" + eid, "?poll=0&after=" + eid} {
		if r := s.do(http.MethodHead, path+query, http.Header{"Accept": {"text/event-stream"}}, nil); r.StatusCode != 200 || r.body != "" {
			t.Errorf("HEAD %s: %d %q", query, r.StatusCode, r.body)
		}
	}
	r.ends("1", "2")
}

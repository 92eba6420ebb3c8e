package workload

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

func TestAnnouncements(t *testing.T) {
	var a Announcements
	post := func(body string) int {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		return w.Code
	}
	if status := post("{"); status != http.StatusBadRequest {
		t.Errorf("half a body gets %d", status)
	}
	for _, body := range []string{`{"channels":["x","y"],"undelivered":{"x":2,"y":0}}`, `{"channels":["x"],"undelivered":{"x":1}}`} {
		if status := post(body); status != http.StatusOK {
			t.Errorf("%s gets %d", body, status)
		}
	}
	for consumer, want := range map[string]int{"x": 2, "y": 0} { // what was told first holds
		if n, ok := a.count(consumer); n != want || !ok {
			t.Errorf("channel %s: %d %v, want %d", consumer, n, ok, want)
		}
	}
	if _, ok := a.count("z"); ok {
		t.Error("a channel that was not announced counts")
	}
}

// TestOutcomes checks what the replies to requests with three messages mean.
func TestOutcomes(t *testing.T) {
	const accepted, refused, unknown = history.Accepted, history.Refused, history.Unknown
	for name, test := range map[string]struct {
		status           int
		body             string
		timeoutIsUnknown bool
		want             []history.Outcome
	}{
		"all":                       {status: 201, body: `{"failures":[]}`, want: []history.Outcome{accepted, accepted, accepted}},
		"refused":                   {status: 201, body: `{"failures":[{"index":1,"reason":"TIMEOUT"},{"index":2,"reason":"SKIPPED"}]}`, want: []history.Outcome{accepted, refused, refused}},
		"a store that may fail":     {status: 201, body: `{"failures":[{"index":1,"reason":"TIMEOUT"},{"index":2,"reason":"SKIPPED"}]}`, timeoutIsUnknown: true, want: []history.Outcome{accepted, unknown, refused}},
		"a fault":                   {status: 201, body: `{"failures":[{"index":0,"reason":"INTERNAL_SERVER_ERROR"}]}`, want: []history.Outcome{unknown, accepted, accepted}},
		"an ingest that ends early": {status: 503, body: `{"code":"TIMEOUT","written":1,"failures":[{"index":1,"reason":"TIMEOUT"}],"failuresTotal":1}`, want: []history.Outcome{accepted, refused, refused}},
		"no result":                 {status: 503, body: `{"code":"TIMEOUT","message":"the server is shutting down"}`, want: []history.Outcome{unknown, unknown, unknown}},
		"no JSON":                   {status: 502, want: []history.Outcome{unknown, unknown, unknown}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &session{Options: Options{TimeoutIsUnknown: test.timeoutIsUnknown}}
			if got, _ := s.outcomes(3, test.status, []byte(test.body), nil); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

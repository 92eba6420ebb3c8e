package workload

import (
	"context"
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

// TestReturningConsumersHurry checks that a consumer whose channel may hold many times what its topics keep reads that in a few
// reads once its producers have ended. Otherwise a long run would stop it before it has everything, and that would look like losses.
func TestReturningConsumersHurry(t *testing.T) {
	for name, test := range map[string]struct {
		habit habit
		ended bool
		most  int // messages before the consumer breaks off
	}{
		"producers go on": {habit: returning, most: 200},
		"ended":           {habit: returning, ended: true, most: 20_000},
		"restless":        {habit: restless, ended: true, most: 200},
	} {
		t.Run(name, func(t *testing.T) {
			writing, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.ended {
				cancel()
			}
			c := &consumer{
				session: &session{transport: "poll", habit: test.habit, writing: writing},
				rand:    Options{Seed: 1}.random(0),
			}
			most := 0
			for range 1000 {
				c.begin()
				most = max(most, c.left)
			}
			if most > test.most || most < test.most/2 {
				t.Errorf("it breaks off after at most %d messages, want about %d", most, test.most)
			}
		})
	}
}

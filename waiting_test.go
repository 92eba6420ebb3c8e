package megaphone_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestWaitingMessagesAreReported: a webhook and a handler of Caddy's event learn once that messages wait, also if the
// configuration is replaced then.
func TestWaitingMessagesAreReported(t *testing.T) {
	waitingMessagesAreReported(t, "")
}

// waitingMessagesAreReported tests it with a setting that says which Broker.
func waitingMessagesAreReported(t *testing.T, broker string) {
	t.Helper()
	type post struct {
		event    string
		Channels []string
		Waiting  map[string]struct {
			Messages int
			Since    time.Time
		}
	}
	posts := make(chan post, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		p := post{event: r.Header.Get("Megaphone-Event")}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &p); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		posts <- p
	}))
	defer receiver.Close()
	settings := func(after string) string {
		return "events {\non megaphone.channel_waiting record\n}\nmegaphone {\n" + broker + "waiting_after " + after + "\nwebhook channel_waiting " + receiver.URL + "\n}"
	}
	s := serve(t, settings("10ms"), "megaphone")
	wants := func(c channel) {
		t.Helper()
		select {
		case p := <-posts:
			w := p.Waiting[c.ConsumerAddress]
			if p.event != "channel_waiting" || len(p.Channels) != 1 || p.Channels[0] != c.ConsumerAddress || len(p.Waiting) != 1 || w.Messages != 1 ||
				time.Since(w.Since) > time.Minute || time.Since(w.Since) < 0 {
				t.Errorf("posted %+v, want 1 message of %s", p, c.ConsumerAddress)
			}
		case <-s.Context().Done():
			t.Fatal("the webhook has got nothing")
		}
		s.wantEvent("megaphone.channel_waiting", map[string]any{"channel": c.ConsumerAddress, "messages": 1})
	}
	first, second := s.create(), s.create()
	s.write(first, "1")
	wants(first)
	s.reload(settings("20ms"), "megaphone")
	s.write(second, "1")
	wants(second) // and not the first one, although the Broker has looked
}

// TestWaitingThatCannotBeReportedIsRefused: a configuration that asks for the event gets it, or an error that says what to do.
func TestWaitingThatCannotBeReportedIsRefused(t *testing.T) {
	s := serve(t, "", "megaphone")
	const hook = "\nwebhook channel_waiting http://127.0.0.1:1/\n}"
	for _, test := range []struct{ settings, want string }{
		{"megaphone {\nbroker guest" + hook, "the broker guest does not report channel_waiting: use the broker memory, disk or redis"},
		{"events {\non megaphone.channel_waiting record\n}\nmegaphone {\nbroker guest\n}", "the broker guest does not report channel_waiting"},
		{"megaphone {\nwaiting_after 1h\nmax_ttl 1h" + hook, "waiting_after is 1h0m0s, and max_ttl is 1h0m0s: channels expire before"},
		{"megaphone {\nwaiting_after 1h\nmax_ttl 2h" + hook, ""}, // some channels may live for so long
		{"megaphone {\nbroker guest\nwaiting_after 1h\nmax_ttl 1h\n}", ""},
	} {
		err := s.load(test.settings, "megaphone")
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.settings, err, test.want)
		}
	}
}

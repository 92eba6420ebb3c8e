package webhook

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// TestWebhookRequest has what is in requests of all kinds.
func TestWebhookRequest(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	for event, test := range map[string]struct {
		notices []Event
		want    string
	}{
		ChannelDeleted: {
			[]Event{{Channel: "main.a", Undelivered: 2}, {Channel: "main.b"}},
			`{"channels":["main.a","main.b"],"undelivered":{"main.a":2,"main.b":0}}`,
		},
		ChannelCreated: {[]Event{{Channel: "main.a"}}, `{"channels":["main.a"]}`},
		ReaderConnected: {
			[]Event{{Channel: "main.a", Transport: "sse", At: at}, {Channel: "main.a", Transport: "poll", At: at}},
			`{"channels":["main.a"],"readers":[{"channel":"main.a","transport":"sse","time":"2026-01-02T03:04:05.006Z"},` +
				`{"channel":"main.a","transport":"poll","time":"2026-01-02T03:04:05.006Z"}]}`,
		},
		ReaderDisconnected: {
			[]Event{{Channel: "main.a", Transport: "ndjson", At: at, EndedBy: "complete"}},
			`{"channels":["main.a"],"readers":[{"channel":"main.a","transport":"ndjson",` +
				`"time":"2026-01-02T03:04:05.006Z","messages":0,"endedBy":"complete"}]}`,
		},
	} {
		t.Run(event, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r, _ := testSender(t, event, func(s *Settings) {
					signer, err := NewSigner(secret)
					if err != nil {
						t.Fatal(err)
					}
					s.Signer = signer
				},
					func(int, *http.Request) (*http.Response, error) { return status(200) })
				s.Enqueue(test.notices)
				s.end(t)
				if len(r.attempts) != 1 || r.bodies[0] != test.want {
					t.Fatalf("got %q, want %s", r.bodies, test.want)
				}
				request := r.attempts[0]
				verifier, err := standardwebhooks.NewWebhook(secret)
				if err != nil {
					t.Fatal(err)
				}
				if err := verifier.Verify([]byte(r.bodies[0]), request.Header); err != nil {
					t.Error(err)
				}
				if err := verifier.Verify([]byte(r.bodies[0]+" "), request.Header); err == nil {
					t.Error("another body has the same signature")
				}
				if got := request.Header.Get("Megaphone-Event"); got != event {
					t.Errorf("the header says the event is %q", got)
				}
			})
		})
	}
}

// channelsIn returns which channels each of some requests tells of.
func channelsIn(t *testing.T, bodies []string) (channels [][]string) {
	t.Helper()
	for _, body := range bodies {
		var got struct{ Channels []string }
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		channels = append(channels, got.Channels)
	}
	return channels
}

// TestWebhookBatches: what comes while the receiver is busy goes into as few requests as their size allows, in order.
func TestWebhookBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r, m := testSender(t, ChannelDeleted, nil, func(int, *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return status(200)
		})
		s.Enqueue(deletions(1))
		synctest.Wait()
		s.Enqueue(deletions(2))
		s.Enqueue(nil)
		s.Enqueue(deletions(10_000))
		s.end(t)
		var got []string
		for i, channels := range channelsIn(t, r.bodies) {
			if i == 1 {
				channels = append([]string{"main.0", "main.1"}, channels...) // they are in it twice, and named once
			}
			got = append(got, channels...)
		}
		want := []string{"main.0"}
		for _, n := range append(deletions(2), deletions(10_000)...) {
			want = append(want, n.Channel)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d channels are told in another order than the %d deletions", len(got), len(want))
		}
		if len(r.bodies) > 20 {
			t.Errorf("there are %d requests", len(r.bodies))
		}
		m.wants(t, ChannelDeleted, 3+10_000, 0, 0, 0)
	})
}

// TestWebhookBodiesAreBounded, whatever they tell.
func TestWebhookBodiesAreBounded(t *testing.T) {
	longest := Event{
		Channel: "main." + strings.Repeat("x", 22), Undelivered: math.MaxInt, Transport: "websocket", EndedBy: "taken_over",
		Messages: math.MaxInt, At: time.Date(2026, 1, 2, 3, 4, 5, 123_456_789, time.UTC),
	}
	for _, event := range EventNames {
		t.Run(event, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r, _ := testSender(t, event, nil, func(int, *http.Request) (*http.Response, error) { return status(200) })
				notices := make([]Event, 2000)
				for i := range notices {
					notices[i] = longest
					notices[i].Channel = fmt.Sprintf("main.%022d", i)
				}
				s.Enqueue(notices)
				huge := longest
				huge.Channel = strings.Repeat("x", maxBody)
				s.Enqueue([]Event{huge}) // goes alone
				s.end(t)
				last := len(r.bodies) - 1
				for i, body := range r.bodies[:last] {
					if len(body) > maxBody || i < last-1 && len(body) < maxBody/2 {
						t.Errorf("request %d has %d bytes", i, len(body))
					}
				}
				if got := channelsIn(t, r.bodies[last:])[0]; len(got) != 1 || got[0] != huge.Channel {
					t.Errorf("the last request tells of %d channels", len(got))
				}
			})
		})
	}
}

// TestWebhookThatIsTooLargeIsHalved: a receiver that refuses requests for their size gets smaller ones, and only what
// it does not take alone is lost.
func TestWebhookThatIsTooLargeIsHalved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r, m := testSender(t, ChannelDeleted, nil, nil)
		var taken []string
		refused := 0
		r.answer = func(attempt int, _ *http.Request) (*http.Response, error) {
			channels := channelsIn(t, r.bodies[attempt-1:])[0]
			if len(channels) > 3 || slices.Contains(channels, "main.5") {
				refused++
				return status(413)
			}
			taken = append(taken, channels...)
			return status(200)
		}
		s.Enqueue(deletions(10))
		s.end(t)
		var want []string
		for i, n := range deletions(10) {
			if i != 5 {
				want = append(want, n.Channel)
			}
		}
		if !slices.Equal(taken, want) {
			t.Errorf("taken: %v", taken)
		}
		m.wants(t, ChannelDeleted, 9, 1, refused, 0)
		ids := map[string]bool{}
		for _, attempt := range r.attempts {
			ids[attempt.Header.Get("Webhook-Id")] = true
		}
		if len(ids) != r.count() {
			t.Errorf("%d requests have %d ids", r.count(), len(ids))
		}
	})
}

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

// TestWebhookRequest checks the bodies and the signatures of requests with each event.
func TestWebhookRequest(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	for name, test := range map[string]struct {
		events []Event
		want   string
	}{
		ChannelDeleted: {
			[]Event{{Channel: "main.a", Undelivered: 2}, {Channel: "main.b"}},
			`{"channels":["main.a","main.b"],"undelivered":{"main.a":2,"main.b":0}}`,
		},
		ChannelCreated: {[]Event{{Channel: "main.a"}}, `{"channels":["main.a"]}`},
		ChannelWaiting: {
			[]Event{{Channel: "main.a", Messages: 2, Since: at}, {Channel: "main.b", Messages: 1, Since: at}, {Channel: "main.a", Messages: 3, Since: at.Add(time.Hour)}},
			`{"channels":["main.a","main.b"],"waiting":{"main.a":{"messages":3,"since":"2026-01-02T04:04:05.006Z"},` +
				`"main.b":{"messages":1,"since":"2026-01-02T03:04:05.006Z"}}}`,
		},
		TopicVacated: {
			[]Event{{Topic: `a"b`, At: at}, {Topic: "c", At: at}, {Topic: `a"b`, At: at.Add(time.Second)}},
			`{"topics":["a\"b","c"],"times":{"a\"b":"2026-01-02T03:04:06.006Z","c":"2026-01-02T03:04:05.006Z"}}`,
		},
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
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r, _ := testSender(t, name, func(s *Settings) {
					signer, err := NewSigner(secret)
					if err != nil {
						t.Fatal(err)
					}
					s.Signer = signer
				}, accept)
				s.Enqueue(test.events)
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
				if got := request.Header.Get("Megaphone-Event"); got != name {
					t.Errorf("the header says that the event is %q", got)
				}
			})
		})
	}
}

// channelsIn returns the channels, or the topics, that each of some bodies names.
func channelsIn(t *testing.T, bodies []string) (channels [][]string) {
	t.Helper()
	for _, body := range bodies {
		var got struct{ Channels, Topics []string }
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		channels = append(channels, append(got.Channels, got.Topics...))
	}
	return channels
}

// TestWebhookBatches: events that come while the receiver is busy go into as few requests as their size allows, in order.
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
				channels = append([]string{"main.0", "main.1"}, channels...) // the batch has them twice, and names them once
			}
			got = append(got, channels...)
		}
		want := []string{"main.0"}
		for _, e := range append(deletions(2), deletions(10_000)...) {
			want = append(want, e.Channel)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the %d channels in requests differ from the %d deletions, or have another order", len(got), len(want))
		}
		if len(r.bodies) > 20 {
			t.Errorf("there were %d requests", len(r.bodies))
		}
		m.wants(t, ChannelDeleted, 3+10_000, 0, 0, 0)
	})
}

// TestWebhookBodiesAreBounded: bodies are small enough, whatever the events are.
func TestWebhookBodiesAreBounded(t *testing.T) {
	longest := Event{
		Channel: "main." + strings.Repeat("x", 22), Undelivered: math.MaxInt, Transport: "websocket", EndedBy: "taken_over",
		Messages: math.MaxInt, At: time.Date(2026, 1, 2, 3, 4, 5, 123_456_789, time.UTC),
	}
	longest.Since = longest.At
	for _, name := range EventNames {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r, _ := testSender(t, name, nil, accept)
				events := make([]Event, 2000)
				for i := range events {
					events[i] = longest
					events[i].Channel = fmt.Sprintf("main.%022d", i)
					events[i].Topic = fmt.Sprintf("\u00e9\x00%020d", i)
					if i >= 1000 { // encoding/json writes each < as \u003c
						events[i].Topic = strings.Repeat("<", 20) + fmt.Sprint(i)
					}
				}
				s.Enqueue(events)
				huge := longest
				huge.Channel = strings.Repeat("x", maxBody)
				huge.Topic = huge.Channel
				s.Enqueue([]Event{huge}) // goes alone
				s.end(t)
				last := len(r.bodies) - 1
				for i, body := range r.bodies[:last] {
					if len(body) > maxBody || i < last-1 && len(body) < maxBody/2 {
						t.Errorf("request %d has %d bytes", i, len(body))
					}
				}
				if got := channelsIn(t, r.bodies[last:])[0]; len(got) != 1 || got[0] != huge.Channel {
					t.Errorf("the last request names %d channels", len(got))
				}
			})
		})
	}
}

// TestARequestThatIsTooLargeIsHalved: a receiver that refuses requests for their size gets smaller ones. Only an event that
// the receiver refuses alone is lost.
func TestARequestThatIsTooLargeIsHalved(t *testing.T) {
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
		for i, e := range deletions(10) {
			if i != 5 {
				want = append(want, e.Channel)
			}
		}
		if !slices.Equal(taken, want) {
			t.Errorf("the receiver accepted %v, want %v", taken, want)
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

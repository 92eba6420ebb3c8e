package megaphone_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A hookReceiver is a server that webhooks tell.
type hookReceiver struct {
	testing.TB

	verifier *standardwebhooks.Webhook
	address  string
	server   *httptest.Server
	down     atomic.Bool  // answers 503
	refused  atomic.Int32 // how often it has

	mu        sync.Mutex
	announced map[string]int // channels, with how many messages were not delivered
	requests  int
}

func newHookReceiver(t testing.TB) *hookReceiver {
	t.Helper()
	verifier, err := standardwebhooks.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	r := &hookReceiver{TB: t, verifier: verifier, address: fmt.Sprint("127.0.0.1:", testserver.FreePort(t)), announced: map[string]int{}}
	r.start()
	return r
}

// start makes it listen, at the same address as before if it did.
func (r *hookReceiver) start() {
	r.Helper()
	var listener net.Listener
	var err error
	for range 100 {
		if listener, err = net.Listen("tcp", r.address); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		r.Fatal(err)
	}
	r.address = listener.Addr().String()
	r.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: r}}
	r.server.Start()
	r.Cleanup(r.server.Close)
}

func (r *hookReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	if r.down.Load() {
		r.refused.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if err := r.verifier.Verify(body, request.Header); err != nil {
		r.Error(err)
	}
	var told struct {
		Channels    []string
		Undelivered map[string]int
	}
	if err := json.Unmarshal(body, &told); err != nil || len(told.Channels) == 0 {
		r.Errorf("told %q", body)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	for _, c := range told.Channels {
		r.announced[c] = told.Undelivered[c]
	}
}

// await waits until it has been told of all these channels.
func (r *hookReceiver) await(channels []channel) {
	r.Helper()
	missing := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range channels {
			if _, ok := r.announced[c.ConsumerAddress]; !ok {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(30 * time.Second); missing() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("%d of %d channels were not announced", missing(), len(channels))
		}
	}
}

func (r *hookReceiver) settings(more string) string {
	return fmt.Sprintf("megaphone {\nttl 1s\nwebhook channel_deleted http://%s/hook {\nsecret %s\n}\n%s\n}", r.address, hookSecret, more)
}

// TestWebhookReceiverIsRestarted: every deletion is announced at least once, though the receiver goes away, fails, and
// the configuration is replaced meanwhile.
func TestWebhookReceiverIsRestarted(t *testing.T) {
	r := newHookReceiver(t)
	s := serve(t, r.settings(""), "megaphone")
	var channels []channel
	create := func(n int) {
		for range n {
			c := s.create()
			s.write(c, "1")
			channels = append(channels, c)
		}
	}
	create(20)
	r.await(channels)

	r.server.Close()
	create(20)
	// They expire, and are announced in vain.
	s.metric("caddy_megaphone_channels", "", func(n float64) bool { return n == 0 })
	s.metric("caddy_megaphone_webhook_failures_total", `event="channel_deleted"`, func(n float64) bool { return n > 0 })
	if err := s.load(r.settings("buffer 7"), "megaphone"); err != nil {
		t.Fatal(err)
	}
	create(20)
	r.down.Store(true)
	r.start()
	create(20)
	s.eventually(func() bool { return r.refused.Load() > 0 })
	r.down.Store(false)
	r.await(channels)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range channels {
		if r.announced[c.ConsumerAddress] != 1 {
			t.Errorf("a channel is said to have lost %d messages", r.announced[c.ConsumerAddress])
		}
	}
	if len(r.announced) != len(channels) {
		t.Errorf("%d channels were announced, there were %d", len(r.announced), len(channels))
	}
}

// TestWebhookIsFinishedWhenItIsRemoved: what was deleted before a reload is announced though the new configuration
// has no webhook, even no Megaphone.
func TestWebhookIsFinishedWhenItIsRemoved(t *testing.T) {
	for name, site := range map[string]string{"without the webhook": "megaphone", "without the module": "respond 204"} {
		t.Run(name, func(t *testing.T) {
			r := newHookReceiver(t)
			r.down.Store(true)
			s := serve(t, r.settings(""), "megaphone")
			c := s.create()
			s.metric("caddy_megaphone_webhook_failures_total", `event="channel_deleted"`, func(n float64) bool { return n > 0 })
			if err := s.load("", site); err != nil {
				t.Fatal(err)
			}
			r.down.Store(false)
			r.await([]channel{c})
		})
	}
}

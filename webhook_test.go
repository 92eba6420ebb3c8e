package megaphone_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// A webhookReceiver is a server to which a webhook posts deletions.
type webhookReceiver struct {
	testing.TB

	verifier *standardwebhooks.Webhook
	address  string
	server   *httptest.Server
	down     atomic.Bool  // whether it answers with 503
	refused  atomic.Int32 // how often it did

	mu          sync.Mutex
	undelivered map[string]int // by deleted channel: how many messages were not delivered
}

func newWebhookReceiver(t testing.TB) *webhookReceiver {
	t.Helper()
	verifier, err := standardwebhooks.NewWebhook(webhookSecret)
	if err != nil {
		t.Fatal(err)
	}
	r := &webhookReceiver{
		TB: t, verifier: verifier, address: fmt.Sprint("127.0.0.1:", testserver.FreePort(t)), undelivered: map[string]int{},
	}
	r.start()
	return r
}

// start makes the receiver listen. Later calls use the same address.
func (r *webhookReceiver) start() {
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

func (r *webhookReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
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
	var posted struct {
		Channels    []string
		Undelivered map[string]int
	}
	if err := json.Unmarshal(body, &posted); err != nil || len(posted.Channels) == 0 {
		r.Errorf("got %q, %v", body, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range posted.Channels {
		r.undelivered[c] = posted.Undelivered[c]
	}
}

// await waits until the receiver has got the deletion of all these channels.
func (r *webhookReceiver) await(channels []channel) {
	r.Helper()
	missing := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range channels {
			if _, ok := r.undelivered[c.ConsumerAddress]; !ok {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(30 * time.Second); missing() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("the receiver has not got the deletion of %d of %d channels", missing(), len(channels))
		}
	}
}

// settings returns the settings of a server with this webhook, whose channels live until the Broker looks for the first
// time, after a second. more are further settings.
func (r *webhookReceiver) settings(more string) string {
	return fmt.Sprintf("megaphone {\nttl 700ms\nwebhook channel_deleted http://%s/hook {\nsecret %s\n}\n%s\n}", r.address, webhookSecret, more)
}

// awaitWebhookFailure waits until the webhook has failed.
func (s *server) awaitWebhookFailure() {
	s.Helper()
	s.awaitMetric("caddy_megaphone_webhook_failures_total", `event="channel_deleted"`, func(n float64) bool { return n > 0 })
}

// TestWebhookReceiverRestarts checks that the receiver gets every deletion at least once, even if it stops, answers with
// errors and starts again, and the configuration is replaced meanwhile.
func TestWebhookReceiverRestarts(t *testing.T) {
	const site = "megaphone create write manage"
	r := newWebhookReceiver(t)
	s := serve(t, r.settings(""), site)
	var channels []channel
	create := func(n int) {
		for range n {
			c := s.create()
			s.write(c, "1")
			if len(channels) >= 20 { // the first ones expire
				if r := s.deleteChannel(c); r.StatusCode != http.StatusOK {
					t.Fatalf("delete: %d %s", r.StatusCode, r.body)
				}
			}
			channels = append(channels, c)
		}
	}
	create(20)
	r.await(channels)

	r.server.Close()
	create(20)
	s.awaitMetric("caddy_megaphone_channels", "", func(n float64) bool { return n == 0 })
	s.awaitWebhookFailure()
	s.reload(r.settings("buffer 7"), site)
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
		if n := r.undelivered[c.ConsumerAddress]; n != 1 {
			t.Errorf("the webhook says that a channel had %d undelivered messages, want 1", n)
		}
	}
	if len(r.undelivered) != len(channels) {
		t.Errorf("the webhook reports %d deleted channels, want %d", len(r.undelivered), len(channels))
	}
}

// TestARemovedWebhookFinishes checks that the webhook posts every deletion before a reload, even if the new configuration
// has no webhook or no Megaphone.
func TestARemovedWebhookFinishes(t *testing.T) {
	for name, site := range map[string]string{"without the webhook": "megaphone", "without the module": "respond 204"} {
		t.Run(name, func(t *testing.T) {
			r := newWebhookReceiver(t)
			r.down.Store(true)
			s := serve(t, r.settings(""), "megaphone create manage")
			channels := s.createAndDelete(1)
			s.awaitWebhookFailure()
			s.reload("", site)
			r.down.Store(false)
			r.await(channels)
		})
	}
}

// TestWebhooksUseTheLogsOfTheLoadedConfiguration checks that a webhook logs to the outputs of the configuration that is
// loaded at that time. The outputs of an earlier configuration may be closed.
func TestWebhooksUseTheLogsOfTheLoadedConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		site        string // of the next configuration; empty if there is none
		withWebhook bool   // whether the next configuration has the webhook too
	}{
		"without a reload":                      {},
		"after a reload with the webhook":       {"megaphone create manage", true},
		"after a reload without the webhook":    {"megaphone create manage", false},
		"after a reload without the whole site": {"respond 204", false},
	} {
		t.Run(name, func(t *testing.T) {
			var status atomic.Int32
			status.Store(http.StatusInternalServerError)
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
			t.Cleanup(receiver.Close)
			dir := t.TempDir()
			logTo := func(name string) string {
				return fmt.Sprintf("log mega {\noutput file %s {\nroll_disabled\n}\ninclude megaphone\n}\nlog other {\nexclude megaphone\n}\n", filepath.Join(dir, name))
			}
			logged := func(name, line string) bool {
				text, _ := os.ReadFile(filepath.Join(dir, name))
				return strings.Contains(string(text), line) && strings.Contains(string(text), `"logger":"megaphone.webhook"`)
			}
			hook := "megaphone {\nwebhook channel_deleted " + receiver.URL + "\n}\n"
			s := serve(t, logTo("first")+hook, "megaphone create manage")
			s.createAndDelete(1)
			s.eventually(func() bool { return logged("first", "a webhook failed and will be repeated") })
			last := "first"
			if test.site != "" {
				last = "second"
				settings := logTo(last)
				if test.withWebhook {
					settings += hook
				}
				s.reload(settings, test.site)
			}
			status.Store(http.StatusBadRequest)
			s.eventually(func() bool { return logged(last, "announcements are lost") })
		})
	}
}

// TestWebhookSettingsAreCheckedOnLoad checks faults that are known only when a configuration is loaded, and that the
// example in docs/webhooks.md has none.
func TestWebhookSettingsAreCheckedOnLoad(t *testing.T) {
	s := serve(t, "megaphone", "megaphone")
	t.Setenv("WEBHOOK_HOST", "a.example")
	const hooks = "webhook channel_deleted https://a.example/\nwebhook channel_deleted https://{env.WEBHOOK_HOST}/\n"
	if err := s.load("megaphone {\n"+hooks+"}", "megaphone"); err == nil || !strings.Contains(err.Error(), "another webhook posts channel_deleted to the same URL") {
		t.Errorf("two webhooks with the same URL: %v", err)
	}
	if err := s.load("megaphone {\nwebhook channel_deleted {env.NOT_SET_ANYWHERE}\n}", "megaphone"); err == nil {
		t.Error("a webhook without a URL is accepted")
	}
	t.Setenv("WEBHOOK_SECRET", webhookSecret)
	page := docBlock(t, "webhooks.md", "webhook channel_deleted")
	page = strings.TrimSuffix(strings.TrimPrefix(page, "{\n"), "}\n")
	if err := s.load(page, "megaphone"); err != nil {
		t.Errorf("the example in docs/webhooks.md: %v", err)
	}
}

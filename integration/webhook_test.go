package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestExitWithWebhooks deletes a channel before the process exits. If the receiver accepts the webhook, it gets the
// event. If not, the server logs the event as lost. Neither delays the exit.
func TestExitWithWebhooks(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"taken": http.StatusOK, "not taken": http.StatusBadGateway} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			reported := map[string]bool{}
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				var event struct{ Channels []string }
				if err != nil || json.Unmarshal(body, &event) != nil {
					t.Errorf("%q, %v", body, err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, c := range event.Channels {
					reported[c] = true
				}
				w.WriteHeader(status)
			}))
			defer receiver.Close()
			s := testserver.New(t)
			// Megaphone has a log of its own, which must work as long as the process lives.
			const logs = "log {\nexclude megaphone\n}\nlog mega {\ninclude megaphone\n}\n"
			c := startSite(t, s, fmt.Sprintf("%smegaphone {\nttl 1s\nwebhook channel_deleted %s/hook\n}", logs, receiver.URL), "megaphone")
			expiring := c.create()
			// The question whether the channel exists finds it expired. The next sweep reports that.
			s.Await("the channel expires", func() bool {
				_, text, err := c.post("/channelsExists", `{"channels":["`+expiring.ConsumerAddress+`"]}`)
				if err != nil {
					t.Fatal(err)
				}
				return !strings.Contains(text, "true")
			})
			start := time.Now()
			s.Signal(syscall.SIGTERM)
			<-s.Done()
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the exit took %v", took)
			}
			mu.Lock()
			defer mu.Unlock()
			if !reported[expiring.ConsumerAddress] {
				t.Error("the webhook did not report the channel")
			}
			lost := strings.Contains(s.Log(), "announcements are lost")
			if lost != (status != http.StatusOK) {
				t.Errorf("logged as lost: %v", lost)
			}
			if _, secret, _ := strings.Cut(expiring.ConsumerAddress, "."); strings.Contains(s.Log(), secret[4:]) {
				t.Error("the log has the channel's secret")
			}
		})
	}
}

// TestMetricsPage scrapes metrics with the configuration that docs/metrics.md shows, from a site and from the admin
// endpoint.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	s, metrics := startWithMetrics(t, "")
	for url, client := range map[string]*http.Client{
		"http://localhost/metrics": s.Admin(), "http://metrics/metrics": metrics,
	} {
		if body := fetch(t, client, url); !strings.Contains(string(body), "\ncaddy_megaphone_channels_created_total 1\n") {
			t.Errorf("%s: %s", url, body)
		}
	}
}

// startWithMetrics starts a server that has the site http://metrics for metrics besides a site for channels. It creates
// one channel. It returns the server and a client for the metrics site.
func startWithMetrics(t *testing.T, options string) (s *testserver.Server, metrics *http.Client) {
	t.Helper()
	s = testserver.New(t)
	socket := s.Socket("metrics")
	s.Start(options, unixSite(s, "megaphone")+"\nhttp://metrics {\nbind unix/"+socket+"\nmetrics\n}")
	c := client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}
	c.create()
	return s, testserver.UnixClient(t, socket)
}

package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// A missingTransport counts replies that say that a channel does not exist.
type missingTransport struct {
	http.RoundTripper

	missing atomic.Int64
}

// RoundTrip implements [http.RoundTripper].
func (m *missingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := m.RoundTripper.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusNotFound {
		m.missing.Add(1)
	}
	return response, err
}

// restarts returns how often a test restarts its server: MEGAPHONE_RESTARTS, else a few times.
func restarts(tb testing.TB) int {
	tb.Helper()
	text := os.Getenv("MEGAPHONE_RESTARTS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// TestHistoryOverRestarts restarts a server with a journal under load, as an operator does and by kill -9 in turn. Producers of
// each kind and readers of each transport go on by themselves. No channel is missing, and no message.
func TestHistoryOverRestarts(t *testing.T) {
	t.Parallel()
	n, count := workload.Seed(t), restarts(t)
	s := testserver.New(t)
	port := testserver.FreePort(t)
	start := func() {
		s.Start("megaphone {\nread_duration 300ms\nstream_duration 300ms\nbroker disk {\npath "+filepath.Join(s.Dir, "journal")+"\n}\n}",
			tcpSite(port, "megaphone create write read"))
	}
	start()
	missing := &missingTransport{RoundTripper: workload.NewTransport(t)}
	r := history.NewRecorder()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ran := make(chan error, 1)
	go func() {
		ran <- workload.Run(ctx, r, workload.Options{
			Seed:     n,
			Base:     func() string { return fmt.Sprintf("http://127.0.0.1:%d", port) },
			HTTP:     &http.Client{Transport: missing},
			Channels: 40,
			Pause:    10 * time.Millisecond,
			Time:     time.Hour, // until stop
			Settle:   patience,
		})
	}()
	const between = 200 // messages
	for i := range count {
		before := r.Accepted()
		s.Await("producers go on", func() bool { return r.Accepted() >= before+between })
		r.Fault("restart", 2*time.Second, func() {
			if i%2 == 0 {
				s.Kill()
			} else {
				s.Stop()
			}
			start()
		})
	}
	before := r.Accepted()
	s.Await("producers go on", func() bool { return r.Accepted() >= before+between })
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	workload.Check(t, r.History(), (count+1)*between)
	if n := missing.missing.Load(); n > 0 {
		t.Errorf("%d replies were 404", n)
	}
}

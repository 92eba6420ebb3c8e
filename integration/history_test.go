package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// TestHistoryOverReloads runs producers and consumers of each kind while the configuration is reloaded again and again.
// Consumers break off and resume, and producers break off and repeat. A reload is no fault: no request fails for it.
func TestHistoryOverReloads(t *testing.T) {
	t.Parallel()
	historyOverReloads(t, "megaphone create write read manage", "", workload.Options{
		Channels: 40, Deleted: 8, Time: workload.Duration(t, time.Second), Least: 500,
	})
}

// historyOverReloads does so for a site, with more settings. The options say what is not the same in each test.
func historyOverReloads(t *testing.T, site, more string, o workload.Options) {
	t.Helper()
	o.Seed = workload.Seed(t)
	s := testserver.New(t)
	port := testserver.FreePort(t)
	o.Announced = new(workload.Announcements)
	hook := httptest.NewServer(o.Announced)
	t.Cleanup(hook.Close)
	settings := func(i int) string {
		return fmt.Sprintf("servers {\nlistener_wrappers {\nmegaphone\n}\n}\nmegaphone {\nread_duration 300ms\nbuffer %d\nwebhook channel_deleted %s\n%s\n}",
			20+i%2, hook.URL, more)
	}
	s.Start(settings(0), tcpSite(port, site))
	r := history.NewRecorder()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+o.Time)
	defer cancel()
	var reloading sync.WaitGroup
	reloading.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if err := s.Reload(settings(i), tcpSite(port, site)); err != nil {
				t.Error(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	o.Base = func() string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
	o.HTTP = &http.Client{Transport: noFailure{t, workload.NewTransport(t)}}
	o.Pause, o.Settle = 5*time.Millisecond, patience
	err := workload.Run(ctx, r, o)
	cancel()
	reloading.Wait()
	if err != nil {
		t.Fatal(err)
	}
	workload.Check(t, r.History(), o.Least)
}

// noFailure is a transport that fails the test if a request fails, unless its client has broken it off. It does not count
// as success that net/http sends some requests again. Some requests get a connection of their own.
type noFailure struct {
	tb        testing.TB
	transport http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (f noFailure) RoundTrip(r *http.Request) (*http.Response, error) {
	conns := 0
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { conns++ }}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
	r.Close = r.Close || rand.IntN(20) == 0
	response, err := f.transport.RoundTrip(r)
	if (err != nil || conns > 1) && r.Context().Err() == nil {
		f.tb.Errorf("%s %s was sent %d times: %v", r.Method, r.URL.Path, conns, err)
	}
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		response.Body = noFailureBody{response.Body, f.tb, r}
	}
	return response, err
}

type noFailureBody struct {
	io.ReadCloser

	tb      testing.TB
	request *http.Request
}

// Read implements [io.Reader].
func (b noFailureBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && b.request.Context().Err() == nil {
		b.tb.Errorf("the reply to %s %s broke off: %v", b.request.Method, b.request.URL.Path, err)
	}
	return n, err
}

// TestHistoryFindsLosses checks that the checker would notice: a server that is killed loses what it has in memory.
func TestHistoryFindsLosses(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	port := testserver.FreePort(t)
	s.Start("megaphone", tcpSite(port, "megaphone"))
	r := history.NewRecorder()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		for r.Missing() < 5 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		r.Fault("kill", time.Second, func() { s.Signal(syscall.SIGKILL) })
		cancel()
	}()
	err := workload.Run(ctx, r, workload.Options{
		Base:     func() string { return fmt.Sprintf("http://127.0.0.1:%d", port) },
		HTTP:     &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		Channels: 20,
		Reading:  make(chan struct{}), // never
		Time:     patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	if faults := r.History().Check(); len(faults) == 0 {
		t.Error("the checker finds no fault")
	}
}

// TestHistoryOverKills kills a server with the broker disk and starts it again, again and again, while producers and
// consumers of each kind use it. They go on by themselves: no channel is missing, and each message comes.
func TestHistoryOverKills(t *testing.T) {
	t.Parallel()
	n := workload.Seed(t)
	s := testserver.New(t)
	port := testserver.FreePort(t)
	settings := fmt.Sprintf("megaphone {\nread_duration 300ms\nttl 1h\nbroker disk {\npath %s\n}\n}", filepath.Join(s.Dir, "journal"))
	start := func() { s.Start(settings, tcpSite(port, "megaphone")) }
	start()
	r := history.NewRecorder()
	kills := 1
	if text := os.Getenv("MEGAPHONE_KILLS"); text != "" {
		kills, _ = strconv.Atoi(text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+time.Duration(kills)*time.Second)
	defer cancel()
	var killer sync.WaitGroup
	killer.Go(func() {
		for range kills {
			for before := len(r.History().Writes); len(r.History().Writes) < before+50 && ctx.Err() == nil; { // it is in use
				time.Sleep(10 * time.Millisecond)
			}
			r.Fault("kill", 5*time.Second, func() {
				s.Signal(syscall.SIGKILL)
				<-s.Done()
				start()
			})
		}
	})
	err := workload.Run(ctx, r, workload.Options{
		Seed:     n,
		Base:     func() string { return fmt.Sprintf("http://127.0.0.1:%d", port) },
		HTTP:     &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		Channels: 20,
		Pause:    5 * time.Millisecond,
		Time:     time.Duration(kills) * time.Second,
		Settle:   patience,
	})
	cancel()
	killer.Wait()
	if err != nil {
		t.Fatal(err)
	}
	workload.Check(t, r.History(), 50)
}

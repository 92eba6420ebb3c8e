package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// TestHistoryOfTopics publishes to topics in all ways, while channels join and leave, become full, and are deleted, while consumers
// and producers break off, and while the configuration is reloaded again and again.
func TestHistoryOfTopics(t *testing.T) {
	t.Parallel()
	historyOfTopics(t, "", workload.Duration(t, 500*time.Millisecond))
}

// TestHistoryOfTopicsOnDisk does the same with a journal.
func TestHistoryOfTopicsOnDisk(t *testing.T) {
	t.Parallel()
	historyOfTopics(t, "broker disk {\npath "+filepath.Join(t.TempDir(), "journal")+"\n}", workload.Duration(t, 300*time.Millisecond))
}

// historyOfTopics does so with a Broker, which the setting broker names.
func historyOfTopics(t *testing.T, broker string, duration time.Duration) {
	t.Helper()
	n := workload.Seed(t)
	s := testserver.New(t)
	port := testserver.FreePort(t)
	announcements := new(workload.Announcements)
	hook := httptest.NewServer(announcements)
	t.Cleanup(hook.Close)
	settings := func(i int) string {
		return fmt.Sprintf(`servers {
	listener_wrappers {
		megaphone
	}
}
megaphone {
	read_duration 300ms
	buffer %d
	in_flight 100000
	topic_keep 10MB
	webhook channel_deleted %s
	%s
}`, 20+i%2, hook.URL, broker)
	}
	const site = "megaphone create write read manage topics publish"
	s.Start(settings(0), tcpSite(port, site))
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	r := history.NewRecorder()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+duration)
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
	err := workload.Run(ctx, r, workload.Options{
		Seed:     n,
		Base:     func() string { return fmt.Sprintf("http://127.0.0.1:%d", port) },
		HTTP:     &http.Client{Transport: noFailure{t, transport}},
		Channels: 25, Topics: 7, Deleted: 3, Announced: announcements,
		Pause:  5 * time.Millisecond,
		Time:   duration,
		Settle: patience,
	})
	cancel()
	reloading.Wait()
	if err != nil {
		t.Fatal(err)
	}
	workload.Check(t, r.History(), 100)
}

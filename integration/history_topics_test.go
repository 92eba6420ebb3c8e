package integration

import (
	"path/filepath"
	"testing"
	"time"

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
	historyOverReloads(t, "megaphone create write read manage topics publish", "in_flight 100000\ntopic_keep 10MB\n"+broker, workload.Options{
		Channels: 25, Topics: 7, Deleted: 3, FullDelete: true, Time: duration, Least: 100,
	})
}

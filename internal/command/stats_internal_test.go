package command

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/admin"
)

func TestStatsShowTheStoreAndItsNodes(t *testing.T) {
	var text strings.Builder
	s := admin.Stats{Agent: "main"}
	if err := printStats(&text, s); err != nil || strings.Contains(text.String(), "store") {
		t.Errorf("without a store: %v\n%s", err, &text)
	}
	s.Store = &admin.Store{
		Error: "it is gone", RoundTrips: 1234, Failures: 5, Queued: 6, Reconnects: 7, Resyncs: 8, LostPushes: 9, Fenced: 10,
		Nodes: []admin.Node{
			{ID: "abc", Self: true, Host: "web-1", Process: 42, Readers: 3, Seen: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)},
			{ID: "def", Host: "web-2", Process: 43},
		},
	}
	text.Reset()
	if err := printStats(&text, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"NOT REACHED: it is gone\n", "1,234, 5 failed, 6 writes wait\n", "7 reconnects, 8 resyncs, 9 lost pushes, 10 fenced calls\n",
		"web-1, process 42, 3 readers, seen 03:04:05, this one\n", "web-2, process 43, 0 readers, seen ",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &text)
		}
	}
}

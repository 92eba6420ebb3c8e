package megaphone

import (
	"maps"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// TestEventData checks the data that handlers of Caddy's events get.
func TestEventData(t *testing.T) {
	e := webhook.Event{Channel: "main.a", Reason: broker.EndDeleted, Undelivered: 3, Transport: "sse", EndedBy: "complete", Messages: 7}
	for name, want := range map[string]map[string]any{
		webhook.ChannelCreated:     {"channel": "main.a"},
		webhook.ChannelDeleted:     {"channel": "main.a", "reason": "deleted", "undelivered": 3},
		webhook.ReaderConnected:    {"channel": "main.a", "transport": "sse"},
		webhook.ReaderDisconnected: {"channel": "main.a", "transport": "sse", "ended_by": "complete", "messages": 7},
	} {
		if got := eventData(name, &e); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

package megaphone

import (
	"maps"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

func TestAWrongSecretOfAWebhookIsNotShown(t *testing.T) {
	w := &Webhook{Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Secret: "not base64!"}
	if err := w.provision(); err == nil || strings.Contains(err.Error(), "not base64!") {
		t.Errorf("error %v", err)
	}
}

func TestWebhookSettingsAreChecked(t *testing.T) {
	for name, w := range map[string]*Webhook{
		"no event":          {URL: "https://receiver.example/"},
		"an unknown event":  {Event: "message", URL: "https://receiver.example/"},
		"no URL":            {Event: webhook.ChannelDeleted},
		"a URL of a file":   {Event: webhook.ChannelDeleted, URL: "file:///etc/passwd"},
		"a URL of no host":  {Event: webhook.ChannelDeleted, URL: "https:///hook"},
		"a URL of a port":   {Event: webhook.ChannelDeleted, URL: "https://:443/hook"},
		"a port too high":   {Event: webhook.ChannelDeleted, URL: "https://receiver.example:65536/"},
		"a negative time":   {Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Timeout: -1},
		"an empty secret":   {Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Secret: "whsec_"},
		"an unset variable": {Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Secret: "{env.NOT_SET_ANYWHERE}"},
	} {
		if err := w.provision(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	t.Setenv("WEBHOOK_HOST", "receiver.example")
	w := &Webhook{Event: webhook.ChannelDeleted, URL: "https://{env.WEBHOOK_HOST}/hook"}
	if err := w.provision(); err != nil || w.settings.URL.Host != "receiver.example" {
		t.Errorf("%v, %v", w.settings, err)
	}
}

// TestEventData has what handlers of Caddy's events get.
func TestEventData(t *testing.T) {
	n := webhook.Event{Channel: "main.a", Reason: broker.EndDeleted, Undelivered: 3, Transport: "sse", EndedBy: "complete", Messages: 7}
	for event, want := range map[string]map[string]any{
		webhook.ChannelCreated:     {"channel": "main.a"},
		webhook.ChannelDeleted:     {"channel": "main.a", "reason": "deleted", "undelivered": 3},
		webhook.ReaderConnected:    {"channel": "main.a", "transport": "sse"},
		webhook.ReaderDisconnected: {"channel": "main.a", "transport": "sse", "ended_by": "complete", "messages": 7},
	} {
		if got := eventData(event, &n); !maps.Equal(got, want) {
			t.Errorf("%s: %v", event, got)
		}
	}
}

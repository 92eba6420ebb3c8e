package megaphone

import (
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

func TestErrorsDoNotShowTheSecretOfAWebhook(t *testing.T) {
	w := &Webhook{Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Secret: "not base64!"}
	if err := w.provision(); err == nil || strings.Contains(err.Error(), "not base64!") {
		t.Errorf("error %v", err)
	}
}

func TestWebhookSettingsAreChecked(t *testing.T) {
	for name, w := range map[string]*Webhook{
		"no event":                {URL: "https://receiver.example/"},
		"an unknown event":        {Event: "message", URL: "https://receiver.example/"},
		"no URL":                  {Event: webhook.ChannelDeleted},
		"a file URL":              {Event: webhook.ChannelDeleted, URL: "file:///etc/passwd"},
		"a URL without a host":    {Event: webhook.ChannelDeleted, URL: "https:///hook"},
		"a URL with only a port":  {Event: webhook.ChannelDeleted, URL: "https://:443/hook"},
		"a port that is too high": {Event: webhook.ChannelDeleted, URL: "https://receiver.example:65536/"},
		"a negative time":         {Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Timeout: -1},
		"an empty secret":         {Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Secret: "whsec_"},
		"an unset variable":       {Event: webhook.ChannelDeleted, URL: "https://receiver.example/", Secret: "{env.NOT_SET_ANYWHERE}"},
	} {
		if err := w.provision(); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	t.Setenv("WEBHOOK_HOST", "receiver.example")
	w := &Webhook{Event: webhook.ChannelDeleted, URL: "https://{env.WEBHOOK_HOST}/hook"}
	if err := w.provision(); err != nil || w.settings.URL.Host != "receiver.example" {
		t.Errorf("%v, %v", w.settings, err)
	}
}

package megaphone

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/setting"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// Webhook posts channel events to a URL. It signs and repeats requests as the Standard Webhooks specification says. The
// file docs/webhooks.md describes the requests.
type Webhook struct {
	// The event to post: `channel_deleted`, `channel_created`, `channel_waiting` (messages wait, and nobody has read the channel
	// for `waiting_after`), `reader_connected`, `reader_disconnected`, `topic_occupied` (a
	// topic has got its first member) or `topic_vacated` (it has lost its last one). Required.
	Event string `json:"event,omitempty"`

	// The `http` or `https` URL that gets the events. Placeholders such as `{env.WEBHOOK_URL}` are supported. Required.
	URL string `json:"url,omitempty"`

	// The secret that signs the requests: base64, with or without the prefix `whsec_`. Placeholders such as
	// `{env.WEBHOOK_SECRET}` are supported. Default: none, and requests have no signature.
	Secret string `json:"secret,omitempty"`

	// How long the receiver may take to answer a request. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long a request that fails is repeated before its events are lost. Default: 1h.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// How many events may wait for the receiver. Beyond that, new events are lost. Default: 100,000.
	Queue int `json:"queue,omitempty"`

	settings *webhook.Settings
	sender   *webhook.Sender
}

// senders holds the queues of all webhooks, by Broker, event and URL. They outlive configurations, so a reload loses nothing.
var senders = caddy.NewUsagePool()

// senderKey returns a webhook's key in senders. A queue has the events of one Broker's channels, and is counted with them.
func (a *App) senderKey(w *Webhook) string { return a.brokerKey + " " + w.key() }

// key identifies a webhook in its configuration.
func (w *Webhook) key() string { return w.Event + " " + w.URL }

// provisionWebhooks checks the webhooks, sets their defaults, and acquires their queues.
func (a *App) provisionWebhooks() error {
	for i, w := range a.Webhooks {
		if err := w.provision(); err != nil {
			return fmt.Errorf("webhook %d: %w", i+1, err)
		}
		if a.hasWebhook(i, w) {
			return fmt.Errorf("webhook %d: %w", i+1, errWebhookTwice(w))
		}
	}
	for _, w := range a.Webhooks {
		w.settings.Logger = func() *zap.Logger { return loadedLogger(a.logger) }
		pooled, _, err := senders.LoadOrNew(a.senderKey(w), func() (caddy.Destructor, error) {
			return webhook.NewSender(w.Event, w.settings, a.registry.webhooks), nil
		})
		if err != nil {
			return err
		}
		w.sender = pooled.(*webhook.Sender)
	}
	return nil
}

// checkWaiting checks that channel_waiting can be reported, if this configuration has a webhook or a handler for it.
func (a *App) checkWaiting() error {
	asks := slices.ContainsFunc(a.Webhooks, func(w *Webhook) bool { return w.Event == webhook.ChannelWaiting }) ||
		slices.ContainsFunc(a.events.Subscriptions, func(s *caddyevents.Subscription) bool {
			return slices.Contains(s.Events, "megaphone."+webhook.ChannelWaiting)
		})
	if !asks {
		return nil
	}
	if _, ok := a.broker.(broker.WaitingSource); !ok {
		module := a.provider.(caddy.Module).CaddyModule().ID.Name()
		return fmt.Errorf("the broker %s does not report %s: use the broker memory, disk or redis, or leave out the webhook and the handlers of this event",
			module, webhook.ChannelWaiting)
	}
	after, ttl := time.Duration(a.WaitingAfter), time.Duration(a.TTL)
	if a.WaitingAfter >= a.MaxTTL {
		return fmt.Errorf("waiting_after is %v, and max_ttl is %v: channels expire before %s is reported: make waiting_after shorter",
			after, time.Duration(a.MaxTTL), webhook.ChannelWaiting)
	}
	if a.WaitingAfter >= a.TTL {
		a.logger.Warn("channels expire before "+webhook.ChannelWaiting+" is reported, unless they have a longer ttl of their own: "+
			"make waiting_after shorter than ttl", zap.Duration("waiting_after", after), zap.Duration("ttl", ttl))
	}
	return nil
}

// stopEvents removes this App from the active ones, and releases its queues. Queues that no other configuration uses
// still finish. When the process exits, stopEvents waits for that.
func (a *App) stopEvents() {
	a.registry.active.remove(a)
	a.registry.guardHeap()
	for _, w := range a.Webhooks {
		if w.sender != nil {
			_, _ = senders.Delete(a.senderKey(w)) // Destruct never fails
		}
	}
	if caddy.Exiting() {
		webhook.Wait(a.registry.exitTime(webhook.MaxExitLinger))
	}
}

// hasWebhook reports whether one of the first n webhooks posts the same event to the same URL.
func (a *App) hasWebhook(n int, w *Webhook) bool {
	return slices.ContainsFunc(a.Webhooks[:n], func(b *Webhook) bool { return b.key() == w.key() })
}

// errWebhookTwice is the error for two webhooks with the same event and URL.
func errWebhookTwice(w *Webhook) error {
	return fmt.Errorf("another webhook posts %s to the same URL: leave one of the two out", w.Event)
}

// UnmarshalJSON implements [json.Unmarshaler]. It refuses explicit zeros, as [App.UnmarshalJSON] does.
func (w *Webhook) UnmarshalJSON(data []byte) error {
	type plain Webhook
	written := &Webhook{Secret: "unset"}
	written.setDefaults()
	if err := unmarshalStrictly(data, (*plain)(written)); err != nil {
		return err
	}
	if written.Secret == "" {
		return fmt.Errorf("secret: %w", errEmptySecret)
	}
	if err := written.checkNumbers(); err != nil {
		return err
	}
	return unmarshalStrictly(data, (*plain)(w))
}

// setDefaults sets the defaults of settings that were left out.
func (w *Webhook) setDefaults() {
	setting.Default(&w.Timeout, caddy.Duration(10*time.Second))
	setting.Default(&w.GiveUp, caddy.Duration(time.Hour))
	setting.Default(&w.Queue, 100_000)
}

// checkNumbers checks that all numbers and durations are in range. The defaults must be set.
func (w *Webhook) checkNumbers() error {
	if w.Queue <= 0 {
		return errNotPositive("queue", "the default")
	}
	if err := checkDuration("timeout", w.Timeout); err != nil {
		return err
	}
	return checkDuration("give_up", w.GiveUp)
}

// provision replaces placeholders, sets the defaults and checks everything.
func (w *Webhook) provision() error {
	if err := checkEvent(w.Event); err != nil {
		return err
	}
	for name, text := range map[string]*string{"url": &w.URL, "secret": &w.Secret} {
		value, err := caddy.NewReplacer().ReplaceOrErr(*text, true, true)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*text = value
	}
	w.setDefaults()
	if err := w.checkNumbers(); err != nil {
		return err
	}
	w.settings = &webhook.Settings{
		Timeout: time.Duration(w.Timeout), GiveUp: time.Duration(w.GiveUp), Queue: w.Queue,
	}
	var err error
	if w.settings.URL, err = webhook.ParseURL(w.URL); err != nil {
		return err
	}
	if w.Secret != "" {
		if w.settings.Signer, err = webhook.NewSigner(w.Secret); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
	}
	return nil
}

var errEmptySecret = errors.New("it is empty: leave it out for requests without a signature")

// checkEvent checks the name of an event.
func checkEvent(name string) error {
	if !slices.Contains(webhook.EventNames, name) {
		return fmt.Errorf("there is no event %q: name one of %s", name, strings.Join(webhook.EventNames, ", "))
	}
	return nil
}

// unmarshalWebhook adds a webhook from a setting webhook of the global option.
func (a *App) unmarshalWebhook(d *caddyfile.Dispenser) error {
	w := new(Webhook)
	if !d.AllArgs(&w.Event, &w.URL) {
		return d.Err("webhook takes an event and a URL: write for example " +
			"webhook channel_deleted https://backend.example.com/hook")
	}
	if err := checkEvent(w.Event); err != nil {
		return d.Errf("webhook: %v", err)
	}
	if !strings.Contains(w.URL, "{") {
		if _, err := webhook.ParseURL(w.URL); err != nil {
			return d.Errf("webhook: %v", err)
		}
	}
	if a.hasWebhook(len(a.Webhooks), w) {
		return d.Errf("webhook: %v", errWebhookTwice(w))
	}
	settings := map[string]setting.Value{
		"secret":  setting.New(w.parseSecret, "{env.WEBHOOK_SECRET}"),
		"timeout": setting.Duration(&w.Timeout, "10s"),
		"give_up": setting.Duration(&w.GiveUp, "1h"),
		"queue":   setting.Count(&w.Queue, "100000"),
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		set, ok := settings[name]
		switch {
		case !ok:
			return d.Errf("unrecognized setting %q of webhook: use one of %s", name, setting.Names(settings))
		case seen[name]:
			return setting.ErrRepeated(d, name)
		}
		seen[name] = true
		if err := set.Parse(d, name); err != nil {
			return err
		}
	}
	a.Webhooks = append(a.Webhooks, w)
	return nil
}

// parseSecret sets the secret. The check of a value with placeholders has to wait until the configuration is loaded.
func (w *Webhook) parseSecret(value string) error {
	w.Secret = value
	if value == "" {
		return errEmptySecret
	}
	if strings.Contains(value, "{") {
		return nil // loading the configuration replaces the placeholders
	}
	_, err := webhook.NewSigner(value)
	return err
}

package megaphone

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
	"github.com/caddy-megaphone/megaphone/internal/setting"
)

// maxMaxMessageSize is the largest value of max_message_size, in bytes. A message is in memory as a whole.
const (
	maxMaxMessageSize     = 1 << 30
	maxMaxMessageSizeText = "1GiB"
)

// UnmarshalJSON implements [json.Unmarshaler]. It reads the same settings as without this method, but it refuses
// explicit zeros. Later, nobody could tell an explicit zero from a setting that was left out. It also refuses a null in
// the place of a module or a webhook.
func (a *App) UnmarshalJSON(data []byte) error {
	type plain App // without this method
	written := new(App)
	written.setDefaults()
	written.MaxChannelsPerClient = 1 // the only number without a default
	if err := unmarshalStrictly(data, (*plain)(written)); err != nil {
		return err
	}
	if err := written.checkNumbers(); err != nil {
		return err
	}
	if written.MaxChannelsPerClient == 0 {
		return errNotPositive("max_channels_per_client", "no limit")
	}
	if written.Agent == "" {
		return fmt.Errorf("agent: %w", broker.CheckAgent(""))
	}
	if string(written.BrokerRaw) == "null" {
		return errors.New("broker is null: leave it out for memory")
	}
	if i := slices.Index(written.Webhooks, nil); i >= 0 {
		return fmt.Errorf("webhook %d is null: leave it out", i+1)
	}
	return unmarshalStrictly(data, (*plain)(a))
}

// unmarshalStrictly decodes settings in JSON into v, in which each of them must have its place. Its errors speak of JSON,
// not of Go's types.
func unmarshalStrictly(data []byte, v any) error {
	err := caddy.StrictUnmarshalJSON(data, v)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return errors.New(jsontext.Explain(err))
	}
	return err
}

// setDefaults sets the defaults of settings that were left out.
func (a *App) setDefaults() {
	setting.Default(&a.Agent, "main")
	if a.BrokerRaw == nil {
		a.BrokerRaw = json.RawMessage(`{"module":"memory"}`)
	}
	if a.Hold == nil {
		hold := caddy.Duration(10 * time.Second)
		a.Hold = &hold
	}
	setting.Default(&a.Buffer, 100)
	setting.Default(&a.InFlight, 100)
	setting.Default(&a.TTL, caddy.Duration(time.Minute))
	setting.Default(&a.ReadDuration, caddy.Duration(20*time.Second))
	setting.Default(&a.StreamDuration, caddy.Duration(10*time.Minute))
	setting.Default(&a.Heartbeat, caddy.Duration(15*time.Second))
	setting.Default(&a.WriteTimeout, caddy.Duration(10*time.Second))
	setting.Default(&a.MaxMessageSize, 2_000_000)
	setting.Default(&a.MaxChannels, 1_000_000)
	setting.Default(&a.MaxMemory, 1<<30)
	setting.Default(&a.MaxReaders, 100_000)
	setting.Default(&a.MaxTTL, max(caddy.Duration(24*time.Hour), a.TTL))
	setting.Default(&a.MaxTopics, 1000)
	setting.Default(&a.TopicTTL, caddy.Duration(time.Hour))
	setting.Default(&a.WaitingAfter, caddy.Duration(30*time.Second))
}

// Validate implements [caddy.Validator]. It checks the settings with their defaults.
func (a *App) Validate() error {
	if err := broker.CheckAgent(a.Agent); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if a.Webhooks != nil && len(a.Webhooks) == 0 {
		return errEmptyList("webhooks", "none")
	}
	if err := a.checkNumbers(); err != nil {
		return err
	}
	return a.checkMaxTTL()
}

// checkMaxTTL checks that max_ttl allows ttl, if both are set.
func (a *App) checkMaxTTL() error {
	if a.MaxTTL != 0 && a.MaxTTL < a.TTL {
		return fmt.Errorf("max_ttl is %v, and ttl is %v: make max_ttl at least as long, or leave it out for the default",
			time.Duration(a.MaxTTL), time.Duration(a.TTL))
	}
	return nil
}

// checkNumbers checks that all numbers and durations are in range. The defaults must be set.
func (a *App) checkNumbers() error {
	if a.Hold != nil && *a.Hold < 0 {
		return errors.New("hold must not be negative: use 0 for no wait, or leave it out for the default")
	}
	if a.MaxChannelsPerClient < 0 {
		return errNotPositive("max_channels_per_client", "no limit")
	}
	for _, count := range []struct {
		name  string
		value int64
	}{
		{"buffer", int64(a.Buffer)},
		{"in_flight", int64(a.InFlight)},
		{"max_message_size", a.MaxMessageSize},
		{"max_channels", int64(a.MaxChannels)},
		{"max_memory", a.MaxMemory},
		{"max_readers", int64(a.MaxReaders)},
		{"max_topics", int64(a.MaxTopics)},
	} {
		if count.value <= 0 {
			return errNotPositive(count.name, "the default")
		}
	}
	if a.MaxMessageSize > maxMaxMessageSize {
		return fmt.Errorf("max_message_size: %d is too large: use at most %s", a.MaxMessageSize, maxMaxMessageSizeText)
	}
	for _, duration := range []struct {
		name  string
		value caddy.Duration
	}{
		{"ttl", a.TTL},
		{"read_duration", a.ReadDuration},
		{"stream_duration", a.StreamDuration},
		{"heartbeat", a.Heartbeat},
		{"write_timeout", a.WriteTimeout},
		{"max_ttl", a.MaxTTL},
		{"topic_ttl", a.TopicTTL},
		{"waiting_after", a.WaitingAfter},
	} {
		if err := checkDuration(duration.name, duration.value); err != nil {
			return err
		}
	}
	if a.TopicKeep < 0 {
		return errors.New("topic_keep must not be negative: use 0 for none, or leave it out")
	}
	if a.Hold != nil && *a.Hold > 0 {
		return checkDuration("hold", *a.Hold)
	}
	return nil
}

// checkDuration checks that a duration is above zero and not too long.
func checkDuration(name string, d caddy.Duration) error {
	if d <= 0 {
		return errNotPositive(name, "the default")
	}
	if time.Duration(d) > setting.MaxDuration {
		return fmt.Errorf("%s: %v is too long: use at most %s", name, time.Duration(d), setting.MaxDurationText)
	}
	return nil
}

// errNotPositive is the error for a number that is zero or less. The parameter without says what applies without the
// setting.
func errNotPositive(name, without string) error {
	return fmt.Errorf("%s must be greater than zero: leave it out for %s", name, without)
}

// errEmptyList is the error for a list that is present but empty. The parameter without says what applies without the
// setting.
func errEmptyList(name, without string) error {
	return fmt.Errorf("%s is an empty list: name at least one, or leave it out for %s", name, without)
}

// OldNames has metrics of this module by other names under which they are shown as well. If it is empty but not nil, the
// metrics of the original Megaphone are shown. In JSON that is true.
type OldNames map[string]string

// areOriginal reports whether the metrics of the original Megaphone are shown.
func (n OldNames) areOriginal() bool { return n != nil && len(n) == 0 }

// MarshalJSON implements [json.Marshaler].
func (n OldNames) MarshalJSON() ([]byte, error) {
	if n.areOriginal() {
		return []byte("true"), nil
	}
	return json.Marshal(map[string]string(n))
}

// UnmarshalJSON implements [json.Unmarshaler].
func (n *OldNames) UnmarshalJSON(data []byte) error {
	if string(data) == "true" {
		*n = OldNames{}
		return nil
	}
	var names map[string]string
	switch err := json.Unmarshal(data, &names); {
	case err != nil:
		return errors.New("metrics_compat must be true, for the names of the original Megaphone, or an object with old names")
	case names != nil && len(names) == 0:
		return errEmptyList("metrics_compat", "none")
	}
	*n = names
	return nil
}

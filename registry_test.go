package megaphone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

func init() {
	caddy.RegisterModule(new(guestModule))
	caddy.RegisterModule(noProvider{})
}

// A guestModule is a guest module that provides a guestBroker. Its name is the Broker's key.
type guestModule struct {
	Name string `json:"name,omitempty"`
}

// openGuests counts the guestBrokers that are open.
var openGuests atomic.Int32

func (*guestModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.guest", New: func() caddy.Module { return new(guestModule) }}
}

func (g *guestModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&g.Name)
	return nil
}

func (g *guestModule) BrokerKey() string { return g.Name }

func (g *guestModule) OpenBroker() (broker.Broker, error) {
	if g.Name == "broken" {
		return nil, errors.New("this guest cannot open")
	}
	openGuests.Add(1)
	return &guestBroker{Broker: memory.New()}, nil
}

// A guestBroker does what the contract allows and the Broker in memory does not do: it has none of the optional
// interfaces, PublishNow always returns false, and it returns other messages than it was given.
type guestBroker struct {
	broker.Broker

	closed atomic.Bool
}

func (b *guestBroker) Close() {
	if !b.closed.Swap(true) {
		openGuests.Add(-1)
	}
	b.Broker.Close()
}

func (*guestBroker) PublishNow(string, *broker.Message, broker.Limits) bool { return false }

// Publish returns [broker.ErrOutcomeUnknown] for messages of the stream "uncertain".
func (b *guestBroker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	if m.StreamID() == "uncertain" {
		return broker.ErrOutcomeUnknown
	}
	return b.Broker.Publish(ctx, producer, restored(m), l)
}

// PublishBatch returns [broker.ErrOutcomeUnknown] for messages from the first of the stream "uncertain" on.
func (b *guestBroker) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	for i, m := range ms {
		if m.StreamID() != "uncertain" {
			continue
		}
		outcomes := b.Broker.PublishBatch(ctx, producers, ms[:i], l)
		for i := range outcomes {
			outcomes[i].Err = broker.ErrOutcomeUnknown
		}
		return outcomes
	}
	return b.Broker.PublishBatch(ctx, producers, ms, l)
}

// restored returns another message with an equal line.
func restored(m *broker.Message) *broker.Message {
	again, err := broker.RestoreMessage(broker.StoredMessage{
		ID: m.ID(), StreamID: m.StreamID(), Time: m.Time(), Keyed: m.Keyed(), Body: m.Body(),
	})
	if err != nil || !bytes.Equal(again.Line(), m.Line()) {
		panic("a restored message has another line")
	}
	return again
}

// A noProvider is a module in the namespace of guest modules that provides no Broker.
type noProvider struct{}

func (noProvider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.no_provider", New: func() caddy.Module { return new(noProvider) }}
}

func (*noProvider) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func TestAGuestBrokerKeepsTheChannels(t *testing.T) {
	s := serve(t, "megaphone {\nbroker guest\n}", "megaphone create write read exists manage health")
	c := s.create()
	read := s.read(c)
	for range 20 { // later writes may be direct ones
		s.write(c, `"\u00e9 & <b>"`)
		read.wants(`"\u00e9 & <b>"`)
	}
	s.post("/write/"+c.ProducerAddress+"/uncertain", "1").wantError(t, 503, "TIMEOUT")
	const messages = `[{"streamId":"s","body":1},{"streamId":"uncertain","body":2},{"streamId":"s","body":3}]`
	batch := s.post("/write-batch", fmt.Sprintf(`{"channels":[%q],"messages":%s}`, s.create().ProducerAddress, messages))
	if got := strings.Count(batch.body, `"reason":"TIMEOUT"`); got != 2 {
		t.Errorf("what became of two messages is unknown, and the reply says %s", batch.body)
	}
	if r := s.get("/health"); r.StatusCode != http.StatusOK {
		t.Errorf("health: %d %s", r.StatusCode, r.body)
	}
	if metrics := s.metrics(); len(metrics) == 0 {
		t.Error("there are no metrics")
	}

	// A reload with the same key keeps the channels and the read.
	s.reload("megaphone {\nttl 2m\nbroker guest\n}", "megaphone")
	s.write(c, "1")
	read.wants("1")
	if n := openGuests.Load(); n != 1 {
		t.Errorf("%d guest Brokers are open", n)
	}

	// Another key means another Broker. The first one closes, which ends its reads.
	s.reload("megaphone {\nbroker guest other\n}", "megaphone")
	read.ends()
	s.tryWrite(c, "1").wantError(t, 404, "NOT_FOUND")
	s.eventually(func() bool { return openGuests.Load() == 1 })

	// Another module means another Broker too.
	other := s.create()
	s.reload("megaphone {\nbroker memory\n}", "megaphone")
	s.tryWrite(other, "1").wantError(t, 404, "NOT_FOUND")
	s.eventually(func() bool { return openGuests.Load() == 0 })
	s.write(s.create(), "1")
}

func TestAGuestBrokerThatDoesNotOpenChangesNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	if err := s.load("megaphone {\nbroker guest broken\n}", "megaphone"); err == nil || !strings.Contains(err.Error(), "broker: this guest cannot open") {
		t.Errorf("error %v", err)
	}
	s.write(c, "1")
	s.read(c).wants("1")
	if n := openGuests.Load(); n != 0 {
		t.Errorf("%d guest Brokers are open", n)
	}
}

func TestBrokersAreModules(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{"broker":{"module":"memory"}}`, ""},
		{`{"broker":null}`, "broker is null"},
		{`{"broker":{}}`, "module"},
		{`{"broker":{"module":"none"}}`, "megaphone.brokers.none"},
		{`{"broker":{"module":"memory","size":1}}`, "size"},
		{`{"broker":{"module":"no_provider"}}`, "provides no broker"},
	} {
		err := caddy.Validate(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, AppsRaw: caddy.ModuleMap{"megaphone": []byte(test.config)}})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.config, err, test.want)
		}
	}
}

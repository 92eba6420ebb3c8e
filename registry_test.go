package megaphone_test

import (
	"bytes"
	"context"
	"errors"
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
	caddy.RegisterModule(new(guest))
	caddy.RegisterModule(stranger{})
}

// A guest is a module of somebody else's that provides a Broker. Its name is its key.
type guest struct {
	Name string `json:"name,omitempty"`
}

// guestsOpen counts the Brokers of guests that are open.
var guestsOpen atomic.Int32

func (*guest) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.guest", New: func() caddy.Module { return new(guest) }}
}

func (g *guest) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&g.Name)
	return nil
}

func (g *guest) BrokerKey() string { return g.Name }

func (g *guest) OpenBroker() (broker.Broker, error) {
	if g.Name == "broken" {
		return nil, errors.New("this guest cannot open")
	}
	guestsOpen.Add(1)
	return &guestBroker{Broker: memory.New()}, nil
}

// A guestBroker has none of the optional interfaces, never publishes at once, and returns other messages than it was given.
type guestBroker struct {
	broker.Broker

	closed atomic.Bool
}

func (b *guestBroker) Close() {
	if !b.closed.Swap(true) {
		guestsOpen.Add(-1)
	}
	b.Broker.Close()
}

func (*guestBroker) PublishNow(string, *broker.Message, broker.Limits) bool { return false }

// Publish does not know what became of messages to the stream "uncertain".
func (b *guestBroker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	if m.StreamID() == "uncertain" {
		return broker.ErrOutcomeUnknown
	}
	return b.Broker.Publish(ctx, producer, restored(m), l)
}

// restored returns a message that says the same.
func restored(m *broker.Message) *broker.Message {
	again, err := broker.RestoreMessage(broker.StoredMessage{
		ID: m.ID(), StreamID: m.StreamID(), Time: m.Time(), Keyed: m.Keyed(), Body: m.Body(),
	})
	if err != nil || !bytes.Equal(again.Line(), m.Line()) {
		panic("a restored message differs")
	}
	return again
}

// A stranger is a module in the namespace of brokers that provides none.
type stranger struct{}

func (stranger) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.stranger", New: func() caddy.Module { return new(stranger) }}
}

func (*stranger) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func TestAGuestKeepsTheChannels(t *testing.T) {
	s := serve(t, "megaphone {\nbroker guest\n}", "megaphone create write read exists manage health")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress)
	for range 20 { // also of a producer that writes directly where that is possible
		s.write(c, `"\u00e9 & <b>"`)
		read.wants(`"\u00e9 & <b>"`)
	}
	s.post("/write/"+c.ProducerAddress+"/uncertain", "1").wantError(t, 503, "TIMEOUT")
	if r := s.get("/health"); r.StatusCode != http.StatusOK {
		t.Errorf("health: %d %s", r.StatusCode, r.body)
	}
	if metrics := s.metrics(); len(metrics) == 0 {
		t.Error("there are no metrics")
	}

	// A reload with the same key keeps the channels and the read.
	if err := s.load("megaphone {\nttl 2m\nbroker guest\n}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	s.write(c, "1")
	read.wants("1")
	if n := guestsOpen.Load(); n != 1 {
		t.Errorf("%d guests are open", n)
	}

	// Another key is another Broker: the first one ends what it has.
	if err := s.load("megaphone {\nbroker guest other\n}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	read.ends()
	s.post("/write/"+c.ProducerAddress+"/s", "1").wantError(t, 404, "NOT_FOUND")
	s.eventually(func() bool { return guestsOpen.Load() == 1 })

	// And so is another module.
	other := s.create()
	if err := s.load("megaphone {\nbroker memory\n}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	s.post("/write/"+other.ProducerAddress+"/s", "1").wantError(t, 404, "NOT_FOUND")
	s.eventually(func() bool { return guestsOpen.Load() == 0 })
	s.write(s.create(), "1")
}

func TestAGuestThatDoesNotOpenChangesNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	if err := s.load("megaphone {\nbroker guest broken\n}", "megaphone"); err == nil || !strings.Contains(err.Error(), "broker: this guest cannot open") {
		t.Errorf("error %v", err)
	}
	s.write(c, "1")
	s.read("/read/" + c.ConsumerAddress).wants("1")
	if n := guestsOpen.Load(); n != 0 {
		t.Errorf("%d guests are open", n)
	}
}

func TestAdminAPIWithoutOptionalInterfaces(t *testing.T) {
	s := serveAdmin(t, "megaphone {\nbroker guest\n}", "megaphone")
	s.create()
	var page struct{ Channels []struct{ ID string } }
	if status := s.call(http.MethodGet, "channels", "", &page); status != http.StatusOK || len(page.Channels) != 1 {
		t.Errorf("list: %d, %v", status, page)
	}
	var stats struct{ Agent string }
	if status := s.call(http.MethodGet, "stats", "", &stats); status != http.StatusOK || stats.Agent != "main" {
		t.Errorf("stats: %d, %v", status, stats)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		var refusal struct{ Error string }
		if status := s.call(method, "drain", "{}", &refusal); status != http.StatusNotImplemented || refusal.Error == "" {
			t.Errorf("%s drain: %d, %v", method, status, refusal)
		}
	}
}

func TestBrokersAreModules(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{"broker":{"module":"memory"}}`, ""},
		{`{"broker":null}`, "broker is null"},
		{`{"broker":{}}`, "module"},
		{`{"broker":{"module":"none"}}`, "megaphone.brokers.none"},
		{`{"broker":{"module":"memory","size":1}}`, "size"},
		{`{"broker":{"module":"stranger"}}`, "provides no broker"},
	} {
		err := caddy.Validate(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, AppsRaw: caddy.ModuleMap{"megaphone": []byte(test.config)}})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.config, err, test.want)
		}
	}
}

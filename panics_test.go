package megaphone_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

func init() {
	caddy.RegisterModule(panickyHandler{})
	caddy.RegisterModule(new(panickyGuest))
}

// A panickyHandler is a handler of Caddy's events that panics.
type panickyHandler struct{}

func (panickyHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.panic", New: func() caddy.Module { return new(panickyHandler) }}
}

func (*panickyHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*panickyHandler) Handle(context.Context, caddy.Event) error { panic("boom") }

// panics returns how many panics were survived in a place.
func (s *server) panics(place string) float64 {
	s.Helper()
	return s.metrics()[fmt.Sprintf("caddy_megaphone_panics_total{place=%q}", place)]
}

// TestAnEventHandlerThatPanicsHarmsNothing: every event has such a handler, and each request is served as without it.
func TestAnEventHandlerThatPanicsHarmsNothing(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	settings := "log panics {\noutput file " + log + " {\nroll_disabled\n}\ninclude megaphone\n}\nevents {\n"
	for _, event := range []string{"channel_created", "channel_deleted", "reader_connected", "reader_disconnected"} {
		settings += "on megaphone." + event + " panic\n"
	}
	settings += "}\nmegaphone {\nheartbeat 20ms\n}"
	for name, site := range map[string]string{
		"in a request": "log {\noutput discard\n}\nmegaphone create write read exists manage", "after it": "megaphone create write read exists manage",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, settings, site)
			before := s.panics("event")
			for i := range 2 {
				c := s.create()
				r := s.read(c)
				s.write(c, "1")
				r.wants("1")
				r.close()
				s.awaitNoReader(c)
				if r := s.deleteChannel(c); r.StatusCode != http.StatusOK {
					t.Errorf("DELETE: %d %s", r.StatusCode, r.body)
				}
				s.eventually(func() bool { return s.panics("event") >= before+float64(4*(i+1)) }) // the helper reads too
			}
			s.wantMetrics(map[string]float64{"detached_readers": 0, `readers{transport="ndjson"}`: 0, "channels": 0})
		})
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a panic was recovered", `"place":"event"`, `"panic":"boom"`, "panickyHandler"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
}

// A panickyGuest is a guest module whose Broker is the one in memory. It panics in the call that panicsIn names.
type panickyGuest struct{}

var panicsIn atomic.Value // of string

func panicIf(call string) {
	if panicsIn.Load() == call {
		panic("the guest panics in " + call)
	}
}

// abortIn names the call in which it panics with [http.ErrAbortHandler].
func abortIf(call string) {
	if panicsIn.Load() == "abort "+call {
		panic(http.ErrAbortHandler)
	}
}

func (*panickyGuest) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.panicky", New: func() caddy.Module { return new(panickyGuest) }}
}

func (*panickyGuest) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*panickyGuest) BrokerKey() string { return "" }

func (*panickyGuest) OpenBroker() (broker.Broker, error) {
	panicIf("OpenBroker")
	return &panickyBroker{memory.New()}, nil
}

type panickyBroker struct{ *memory.Broker }

func (b *panickyBroker) Subscribe(ctx context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	sub, err := b.Broker.Subscribe(ctx, consumer, o)
	if err != nil {
		return nil, err
	}
	return &panickySubscription{sub.(broker.Notifier)}, nil
}

func (b *panickyBroker) PublishNow(producer string, m *broker.Message, l broker.Limits) bool {
	panicIf("PublishNow")
	return b.Broker.PublishNow(producer, m, l)
}

func (b *panickyBroker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	panicIf("Publish")
	return b.Broker.Publish(ctx, producer, m, l)
}

func (b *panickyBroker) Ingest(l broker.Limits) broker.Ingestion {
	return &panickyIngestion{b.Broker.Ingest(l)}
}

func (b *panickyBroker) Stats() broker.Stats {
	panicIf("Stats")
	return b.Broker.Stats()
}

func (b *panickyBroker) MemoryUsed() int64 {
	panicIf("MemoryUsed")
	return b.Broker.MemoryUsed()
}

func (b *panickyBroker) FlushDeletions() {
	panicIf("FlushDeletions")
	b.Broker.FlushDeletions()
}

func (b *panickyBroker) Close() {
	b.Broker.Close()
	panicIf("Close")
}

type panickySubscription struct{ broker.Notifier }

func (s *panickySubscription) Take(dst []*broker.Message, maxBytes int) ([]*broker.Message, bool) {
	panicIf("Take")
	abortIf("Take")
	return s.Notifier.Take(dst, maxBytes)
}

func (s *panickySubscription) Notify(f func()) bool {
	panicIf("Notify")
	return s.Notifier.Notify(f)
}

func (s *panickySubscription) Settle(id broker.EventID) bool {
	panicIf("Settle")
	return s.Notifier.Settle(id)
}

type panickyIngestion struct{ broker.Ingestion }

func (in *panickyIngestion) Write(ctx context.Context, number int, producer []byte, m *broker.Message) error {
	if number > 0 {
		panicIf("Write")
	}
	return in.Ingestion.Write(ctx, number, producer, m)
}

// servePanicky runs Caddy with a guest Broker that panics, when it is told to.
func servePanicky(t *testing.T, site string) *server {
	t.Helper()
	panicsIn.Store("")
	s := serve(t, "megaphone {\nbroker panicky\nbuffer 1\n}", site)
	t.Cleanup(func() { panicsIn.Store("") }) // before Caddy is stopped
	return s
}

// TestAReadThatPanicsFreesItsChannel: whatever of a read panics, its connection is closed, nothing of it stays counted, and
// the next reader gets its messages.
func TestAReadThatPanicsFreesItsChannel(t *testing.T) {
	const detached, inHandler = "megaphone", "log {\noutput discard\n}\nmegaphone"
	for _, test := range []struct {
		call, site, accept, place string
	}{
		{"Take", detached, "*/*", "read"},
		{"Take", detached, "text/event-stream", "read"},
		{"Take", inHandler, "*/*", "request"},
		{"Notify", detached, "*/*", "request"}, // before the handler returns
		{"abort Take", detached, "*/*", ""},
		{"abort Take", inHandler, "*/*", ""},
	} {
		t.Run(test.call+" "+test.place+" "+test.accept, func(t *testing.T) {
			s := servePanicky(t, test.site)
			before := s.panics(test.place)
			c := s.create()
			if test.call == "Notify" {
				panicsIn.Store(test.call)
			}
			r := s.open(http.MethodGet, c.readPath(), http.Header{"Accept": {test.accept}}, nil)
			defer r.Body.Close()
			if test.place == "read" { // the handler may still be at it
				s.eventually(func() bool { return s.metrics()["caddy_megaphone_detached_readers{}"] == 1 })
			}
			panicsIn.Store(test.call)
			s.write(c, "1")
			if _, err := io.ReadAll(r.Body); err == nil {
				t.Error("the end looks clean")
			}
			panicsIn.Store("")
			s.awaitNoReader(c)
			s.eventually(func() bool {
				m := s.metrics()
				return m["caddy_megaphone_detached_readers{}"] == 0 && m[`caddy_megaphone_readers{transport="ndjson"}`] == 0 &&
					m[`caddy_megaphone_readers{transport="sse"}`] == 0
			})
			s.read(c).wants("1")
			if test.place != "" && s.panics(test.place) != before+1 {
				t.Errorf("%v panics were counted, want 1", s.panics(test.place)-before)
			}
		})
	}
}

// TestAnAcknowledgementThatPanicsEndsItsWebSocket: the WebSocket's own goroutine calls the Broker.
func TestAnAcknowledgementThatPanicsEndsItsWebSocket(t *testing.T) {
	s := servePanicky(t, "megaphone")
	before := s.panics("websocket")
	c := s.create()
	conn := s.dial(c, "")
	defer conn.CloseNow()
	s.write(c, "1")
	id := s.wantMessages(conn, "1")[0]
	panicsIn.Store("Settle")
	s.sendText(conn, fmt.Sprintf(`{"ack":%q}`, id))
	if _, _, err := conn.Read(s.ctx); err == nil {
		t.Error("the WebSocket goes on")
	}
	panicsIn.Store("")
	s.awaitNoReader(c)
	if n := s.panics("websocket") - before; n != 1 {
		t.Errorf("%v panics were counted, want 1", n)
	}
	s.read(c).wants("1")
}

// directClient returns a client whose writes to a channel are direct. read gets what that takes.
func (s *server) directClient(c channel, read *read) *rawClient {
	producer := s.rawClient()
	for i := 0; !s.isDirect(); i++ {
		producer.writeAll(c, fmt.Sprint(i))
		read.wants(fmt.Sprint(i))
	}
	return producer
}

// TestADirectWriteThatPanicsEndsItsConnection: no handler of net/http is on the stack.
func TestADirectWriteThatPanicsEndsItsConnection(t *testing.T) {
	s := servePanicky(t, "megaphone")
	before := s.panics("direct_write")
	c := s.create()
	read := s.read(c)
	producer := s.directClient(c, read)
	panicsIn.Store("PublishNow")
	producer.send(writeRequest(c.ProducerAddress, "1"))
	producer.wantsEnd()
	panicsIn.Store("")
	s.eventually(func() bool { return !s.isDirect() })
	if n := s.panics("direct_write") - before; n != 1 {
		t.Errorf("%v panics were counted, want 1", n)
	}
	s.write(c, "2")
	read.wants("2")
}

// TestASampleThatPanicsSaysNothing of direct writes: it has reached its handler.
func TestASampleThatPanicsSaysNothing(t *testing.T) {
	megaphone.SampleDirectWrites(t, 2)
	s := servePanicky(t, "megaphone")
	before := s.panics("request")
	c := s.create()
	read := s.read(c)
	producer := s.directClient(c, read)
	panicsIn.Store("Publish") // which direct writes do without
	for {
		producer.send(writeRequest(c.ProducerAddress, `"direct"`))
		reply, err := http.ReadResponse(producer.replies, nil)
		if err != nil {
			break // that was the sample
		}
		_, _ = io.Copy(io.Discard, reply.Body)
		read.wants(`"direct"`)
	}
	panicsIn.Store("")
	if n := s.panics("request") - before; n != 1 {
		t.Errorf("%v panics were counted, want 1", n)
	}
	s.direct(c)
	if n := s.metrics()["caddy_megaphone_direct_mismatches_total{}"]; n != 0 {
		t.Errorf("%v samples differ", n)
	}
}

// TestAnIngestThatPanicsHoldsNoLine: a line before the panic waits for room. It must not wait on.
func TestAnIngestThatPanicsHoldsNoLine(t *testing.T) {
	s := servePanicky(t, "megaphone")
	c := s.create()
	s.write(c, "1") // the channel is full
	panicsIn.Store("Write")
	line := fmt.Sprintf(`{"channel":%q,"streamId":"s","body":2}`, c.ProducerAddress) + "\n"
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, "http://localhost/write", strings.NewReader(line+line))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	if r, err := s.client.Do(request); err == nil {
		r.Body.Close()
		t.Errorf("the ingest was answered with %s", r.Status)
	}
	panicsIn.Store("")
	if held := s.metrics()["caddy_megaphone_held_producers{}"]; held != 0 {
		t.Errorf("%v lines are still held", held)
	}
}

// TestABrokerThatPanicsBesideRequestsHarmsNothing: Prometheus, the garbage collector and reloads call it too.
func TestABrokerThatPanicsBesideRequestsHarmsNothing(t *testing.T) {
	s := servePanicky(t, "megaphone")
	before := s.panics("broker")
	survives := func(call string, do func()) {
		t.Helper()
		panicsIn.Store(call)
		do()
		panicsIn.Store("")
		after := s.panics("broker")
		if after <= before {
			t.Errorf("no panic was counted in %s", call)
		}
		before = after
	}
	survives("Stats", func() {
		if _, ok := s.metrics()["caddy_megaphone_detached_readers{}"]; !ok {
			t.Error("there are no metrics at all")
		}
	})
	c := s.create()
	survives("FlushDeletions", func() { s.reload("megaphone {\nttl 2m\nbroker panicky\n}", "megaphone") })
	survives("MemoryUsed", func() { s.reload("megaphone {\nttl 3m\nbroker panicky\n}", "megaphone") })
	s.write(c, "1")
	read := s.read(c)
	read.wants("1")
	survives("Close", func() { s.reload("", "megaphone") })
	read.ends()
	survives("OpenBroker", func() {
		for range 2 { // the pool is not locked after the first time
			if err := s.load("megaphone {\nbroker panicky\n}", "megaphone"); err == nil || !strings.Contains(err.Error(), "panicked") {
				t.Errorf("error %v", err)
			}
		}
	})
	s.reload("megaphone {\nbroker panicky\n}", "megaphone")
	s.write(s.create(), "1")
}

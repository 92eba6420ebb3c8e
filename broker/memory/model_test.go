package memory_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

// TestChannelModel makes random calls to a channel, and compares it with a model that is a plain slice. What the
// consumer sees, without duplicates, must always be the accepted sequence: in order, each message once, and none
// missing unless the read reported a gap. Producers wait for room and give up, readers begin, take over and end, and
// the channel is deleted now and then.
func TestChannelModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 30 { // a hundred checks each
			// The struct hides T.Deadline, which must not be called in a bubble.
			rapid.Check(struct{ testing.TB }{t}, checkChannel)
		}
	})
}

func checkChannel(t *rapid.T) {
	b := memory.New()
	defer b.Close()
	limits := broker.Limits{
		Buffer:      rapid.IntRange(1, 5).Draw(t, "buffer"),
		InFlight:    rapid.IntRange(1, 5).Draw(t, "in flight"),
		TTL:         10000 * time.Hour,
		MaxChannels: 1,
		MaxMemory:   1 << 20,
		MaxMessage:  int64(rapid.SampledFrom([]int{20, 1000}).Draw(t, "max message")),
	}
	addresses, err := b.Create(t.Context(), "agent", limits)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{broker: b, limits: limits, addresses: addresses, consumed: -1}
	t.Repeat(map[string]func(*rapid.T){
		"publish":      m.publish,
		"publish held": m.publishHeld,
		"cancel":       m.cancel,
		"delete":       m.delete,
		"subscribe":    m.subscribe,
		"take":         m.take,
		"received":     m.received,
		"settle":       m.settle,
		"end":          m.end,
		"":             m.check,
	})
	m.drain(t)
}

// A model is what a channel should hold, and what its consumer has seen of it.
type model struct {
	broker    *memory.Broker
	limits    broker.Limits
	addresses broker.Addresses

	accepted []*broker.Message // merged as they are
	merged   []broker.EventID  // of keyed messages that were merged with later ones
	keys     int               // how many keyed messages were made
	letGo    int               // how many of accepted are let go, from the first
	inFlight int               // how many after them are in flight
	follows  bool
	// unconfirmed is the place after the newest message that a read has brought that ended unconfirmed.
	unconfirmed int
	held        []*heldProducer // first come first

	// These are of the present reader. If there is none, sub is nil.
	sub     broker.Subscription
	acks    bool
	again   bool  // like acks, unless the channel follows cursors
	taken   []int // the places in accepted of the messages that it was given
	next    int   // the place of the message that it will be given next
	arrived int   // how many of taken are reported as received

	consumed int // the place of the newest message that a consumer has seen

	// These count earlier channels too.
	total, mergedAll, undelivered, duplicates uint64
}

// delete deletes the channel, and continues with a new one.
func (m *model) delete(t *rapid.T) {
	undelivered := m.allUndelivered()
	if err := m.broker.Delete(t.Context(), m.addresses.Producer); err != nil {
		t.Fatal(err)
	}
	if got := m.allUndelivered() - undelivered; got != len(m.accepted)-m.letGo {
		t.Fatalf("%d messages are undelivered, want %d", got, len(m.accepted)-m.letGo)
	}
	m.undelivered += uint64(len(m.accepted) - m.letGo)
	synctest.Wait()
	for _, h := range m.held {
		h.expect(t, broker.ErrNotFound)
	}
	if m.sub != nil {
		select {
		case <-m.sub.Done():
		default:
			t.Fatal("a subscription outlives its channel")
		}
		if ms, _ := m.sub.Take(nil, 1<<20); len(ms) > 0 || !errors.Is(m.sub.Err(), broker.ErrNotFound) {
			t.Fatalf("took %d messages, error %v after the channel was deleted", len(ms), m.sub.Err())
		}
	}
	addresses, err := m.broker.Create(t.Context(), "agent", m.limits)
	if err != nil {
		t.Fatal(err)
	}
	*m = model{
		broker: m.broker, limits: m.limits, addresses: addresses, keys: m.keys, consumed: -1,
		total: m.total, mergedAll: m.mergedAll, undelivered: m.undelivered, duplicates: m.duplicates,
	}
}

// allUndelivered returns how many messages the Broker has let go with their channel.
func (m *model) allUndelivered() int {
	stats := m.broker.Stats()
	return int(stats.AllUndelivered())
}

func (m *model) subscribe(t *rapid.T) {
	o := broker.SubscribeOptions{
		Limits:       m.limits,
		Follow:       rapid.Bool().Draw(t, "follow"),
		TakeOver:     rapid.Bool().Draw(t, "take over"),
		Acknowledged: rapid.Bool().Draw(t, "acknowledged"),
		Redeliver:    rapid.Bool().Draw(t, "redeliver"),
	}
	cursor := -1
	if m.consumed >= 0 && rapid.Bool().Draw(t, "cursor") {
		// A consumer shows the last event that it has seen, or an earlier one.
		cursor = rapid.IntRange(max(0, m.consumed-4), m.consumed).Draw(t, "after")
		o.After, o.Follow = m.accepted[cursor].ID().String(), true
	}
	sub, err := m.broker.Subscribe(t.Context(), m.addresses.Consumer, o)
	if m.sub != nil && !o.TakeOver {
		if err == nil {
			t.Fatal("two readers at once")
		}
		return
	}
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	want := broker.ResumeNone
	if cursor >= 0 {
		want = broker.ResumeGap
		if cursor >= m.letGo-1 {
			want = broker.ResumeComplete
		}
	}
	if sub.Resume() != want {
		t.Fatalf("resume %q, want %q", sub.Resume(), want)
	}
	if cursor >= m.letGo {
		m.letGoUpTo(cursor + 1)
	}
	m.sub, m.acks, m.again, m.follows = sub, o.Acknowledged, o.Redeliver, m.follows || o.Follow
	if !m.follows && !o.Redeliver {
		m.letGoUpTo(max(m.letGo, m.unconfirmed))
	}
	m.taken, m.next, m.arrived = nil, m.letGo, 0
}

func (m *model) take(t *rapid.T) {
	if m.sub == nil {
		return
	}
	ms, full := m.sub.Take(nil, rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(t, "bytes"))
	for _, message := range ms {
		if m.next == m.letGo+m.inFlight {
			if m.inFlight >= m.limits.InFlight {
				m.leaveWindow(t)
			}
			m.inFlight++
		}
		if string(message.Line()) != string(m.accepted[m.next].Line()) {
			t.Fatalf("took %s, want %s", message.Line(), m.accepted[m.next].Line())
		}
		m.taken = append(m.taken, m.next)
		if m.next > m.consumed+1 {
			t.Fatalf("the consumer has seen message %d, and is given %d", m.consumed, m.next)
		}
		m.consumed = max(m.consumed, m.next)
		m.next++
	}
	if full && m.mayTake() {
		t.Fatal("Take reports a full window that has room")
	}
	m.admit(t)
}

// leaveWindow lets go of the oldest message in flight, which must have been received.
func (m *model) leaveWindow(t *rapid.T) {
	if m.acks || m.again && !m.follows || m.receivedUpTo() <= m.letGo {
		t.Fatal("a message has left the window before it was received")
	}
	m.letGoUpTo(m.letGo + 1)
}

// mayTake reports whether the window lets another message out.
func (m *model) mayTake() bool {
	return m.inFlight < m.limits.InFlight || !m.acks && (!m.again || m.follows) && m.receivedUpTo() > m.letGo
}

// receivedUpTo is the place after the newest message that has been received on this connection.
func (m *model) receivedUpTo() int {
	if m.arrived == 0 {
		return 0
	}
	return m.taken[m.arrived-1] + 1
}

func (m *model) received(t *rapid.T) {
	if m.sub == nil {
		return
	}
	m.arrived = rapid.IntRange(m.arrived, len(m.taken)).Draw(t, "arrived")
	m.sub.Received(m.arrived)
}

func (m *model) settle(t *rapid.T) {
	if m.sub == nil || m.consumed < 0 {
		return
	}
	place := rapid.IntRange(0, m.consumed).Draw(t, "event")
	known := place >= m.letGo-1
	if found := m.sub.Settle(m.accepted[place].ID()); found != known {
		t.Fatalf("settle returns %v, want %v", found, known)
	}
	m.acks, m.follows = true, true
	if place >= m.letGo {
		m.letGoUpTo(place + 1)
	}
}

func (m *model) end(t *rapid.T) {
	if m.sub == nil {
		return
	}
	how := rapid.SampledFrom([]broker.End{broker.EndClean, broker.EndFault, broker.EndUnconfirmed}).Draw(t, "how")
	m.sub.End(how)
	switch received := m.receivedUpTo(); {
	case m.follows:
	case how == broker.EndClean:
		m.letGoUpTo(max(m.letGo, received))
	case how == broker.EndUnconfirmed:
		m.letGoUpTo(max(m.letGo, min(received, m.unconfirmed)))
		m.unconfirmed = max(received, m.unconfirmed)
	}
	m.sub = nil
}

// letGoUpTo lets go of all messages before a place.
func (m *model) letGoUpTo(place int) {
	m.inFlight -= place - m.letGo
	m.letGo = place
	m.next = max(m.next, place)
}

// check compares the channel's state and the Broker's counters with the model.
func (m *model) check(t *rapid.T) {
	state, err := m.broker.State(t.Context(), m.addresses.Consumer)
	if err != nil {
		t.Fatal(err)
	}
	pending := len(m.accepted) - m.letGo - m.inFlight
	if state.Pending != pending || state.InFlight != m.inFlight || state.Connected != (m.sub != nil) {
		t.Fatalf("state %+v, want %d pending and %d in flight", state, pending, m.inFlight)
	}
	totals := m.broker.Stats()
	settled := m.total - m.mergedAll - m.undelivered - uint64(len(m.accepted)-m.letGo)
	if totals.Replaced+totals.Appended != m.mergedAll {
		t.Fatalf("%d messages are replaced and %d appended, want %d in all", totals.Replaced, totals.Appended, m.mergedAll)
	}
	if totals.Accepted != m.total || totals.Settled != settled || totals.Duplicates != m.duplicates {
		t.Fatalf("%d accepted, %d settled and %d duplicates, want %d, %d and %d",
			totals.Accepted, totals.Settled, totals.Duplicates, m.total, settled, m.duplicates)
	}
}

// drain reads everything that the channel holds, as a consumer that has seen none of it.
func (m *model) drain(t *rapid.T) {
	for len(m.held) > 0 {
		m.cancel(t)
	}
	sub, err := m.broker.Subscribe(t.Context(), m.addresses.Consumer, broker.SubscribeOptions{Limits: m.limits, TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	if !m.follows {
		m.letGoUpTo(max(m.letGo, m.unconfirmed))
	}
	for place, total := m.letGo, 0; place < len(m.accepted); {
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) == 0 {
			t.Fatalf("messages from %d on are missing", place)
		}
		for _, message := range ms {
			if string(message.Line()) != string(m.accepted[place].Line()) {
				t.Fatalf("took %s, want %s", message.Line(), m.accepted[place].Line())
			}
			place++
		}
		total += len(ms)
		sub.Received(total)
	}
}

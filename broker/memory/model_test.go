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

// TestChannelModel drives a channel with random calls beside a model that is a plain slice, and checks that the
// consumer's view, without repeats, is always the accepted sequence: in order, each message once, and nothing
// missing but where a gap was told. Producers wait for room and go, readers come, take over and go, and the channel is
// deleted now and then.
func TestChannelModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 30 { // of a hundred checks each
			// Without T.Deadline, which may not be called in a bubble.
			rapid.Check(struct{ testing.TB }{t}, checkChannel)
		}
	})
}

func checkChannel(t *rapid.T) {
	registry := memory.New()
	defer registry.Close()
	limits := broker.Limits{
		Buffer:      rapid.IntRange(1, 5).Draw(t, "buffer"),
		InFlight:    rapid.IntRange(1, 5).Draw(t, "in flight"),
		TTL:         10000 * time.Hour,
		MaxChannels: 1,
		MaxMemory:   1 << 20,
	}
	addresses, err := registry.Create(t.Context(), "agent", limits)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{registry: registry, limits: limits, addresses: addresses, consumed: -1}
	t.Repeat(map[string]func(*rapid.T){
		"publish":   m.publish,
		"hold":      m.hold,
		"go":        m.leave,
		"delete":    m.delete,
		"subscribe": m.subscribe,
		"take":      m.take,
		"received":  m.received,
		"settle":    m.settle,
		"end":       m.end,
		"":          m.check,
	})
	m.drain(t)
}

// A model is what a channel should hold, and what its consumer has seen of it.
type model struct {
	registry  *memory.Broker
	limits    broker.Limits
	addresses broker.Addresses

	accepted []*broker.Message
	keys     int // so many keyed messages were written
	released int // so many of accepted are let go
	inFlight int // so many after them are in flight
	follows  bool
	held     []*held // producers that wait, in line

	// Of the present reader; sub is nil if there is none.
	sub     broker.Subscription
	acks    bool
	taken   []int // the places in accepted of what it was given
	next    int   // the place of what it is to be given next
	arrived int   // so many of taken have been reported as received

	consumed int // the place of the newest message that a consumer has seen

	// Of the channels before too.
	total, undelivered, repeated uint64
}

// delete deletes the channel, and goes on with a new one.
func (m *model) delete(t *rapid.T) {
	undelivered := m.registry.Undelivered()
	if err := m.registry.Delete(t.Context(), m.addresses.Producer); err != nil {
		t.Fatal(err)
	}
	if got := m.registry.Undelivered() - undelivered; got != len(m.accepted)-m.released {
		t.Fatalf("%d messages are undelivered, want %d", got, len(m.accepted)-m.released)
	}
	m.undelivered += uint64(len(m.accepted) - m.released)
	synctest.Wait()
	for _, h := range m.held {
		h.returns(t, broker.ErrNotFound)
	}
	if m.sub != nil {
		select {
		case <-m.sub.Done():
		default:
			t.Fatal("a read goes on without its channel")
		}
		if ms, _ := m.sub.Take(nil, 1<<20); len(ms) > 0 || !errors.Is(m.sub.Err(), broker.ErrNotFound) {
			t.Fatalf("took %d, error %v after the channel's end", len(ms), m.sub.Err())
		}
	}
	addresses, err := m.registry.Create(t.Context(), "agent", m.limits)
	if err != nil {
		t.Fatal(err)
	}
	*m = model{
		registry: m.registry, limits: m.limits, addresses: addresses, keys: m.keys, consumed: -1,
		total: m.total, undelivered: m.undelivered, repeated: m.repeated,
	}
}

func (m *model) subscribe(t *rapid.T) {
	o := broker.SubscribeOptions{
		Limits:       m.limits,
		Follow:       rapid.Bool().Draw(t, "follow"),
		TakeOver:     rapid.Bool().Draw(t, "take over"),
		Acknowledged: rapid.Bool().Draw(t, "acknowledged"),
	}
	cursor := -1
	if m.consumed >= 0 && rapid.Bool().Draw(t, "cursor") {
		// A consumer shows the last event that it has seen, or an earlier one.
		cursor = rapid.IntRange(max(0, m.consumed-4), m.consumed).Draw(t, "after")
		o.After, o.Follow = m.accepted[cursor].ID().String(), true
	}
	sub, err := m.registry.Subscribe(t.Context(), m.addresses.Consumer, o)
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
		if cursor >= m.released-1 {
			want = broker.ResumeComplete
		}
	}
	if sub.Resume() != want {
		t.Fatalf("resume %q, want %q", sub.Resume(), want)
	}
	if cursor >= m.released {
		m.release(cursor + 1)
	}
	m.sub, m.acks, m.follows = sub, o.Acknowledged, m.follows || o.Follow
	m.taken, m.next, m.arrived = nil, m.released, 0
}

func (m *model) take(t *rapid.T) {
	if m.sub == nil {
		return
	}
	ms, full := m.sub.Take(nil, rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(t, "bytes"))
	for _, message := range ms {
		if m.next == m.released+m.inFlight {
			if m.inFlight >= m.limits.InFlight {
				m.leaveWindow(t)
			}
			m.inFlight++
		}
		if message != m.accepted[m.next] {
			t.Fatalf("took %s, want %s", message.Line(), m.accepted[m.next].Line())
		}
		m.taken = append(m.taken, m.next)
		if m.next > m.consumed+1 {
			t.Fatalf("the consumer has seen %d, and is given %d", m.consumed, m.next)
		}
		m.consumed = max(m.consumed, m.next)
		m.next++
	}
	if full && m.mayGoOn() {
		t.Fatal("the window is said to be full")
	}
	m.admit(t)
}

// leaveWindow lets the oldest message go that is in flight, which must have been received.
func (m *model) leaveWindow(t *rapid.T) {
	if m.acks || m.receivedUpTo() <= m.released {
		t.Fatal("a message has left the window that was not received")
	}
	m.release(m.released + 1)
}

func (m *model) mayGoOn() bool {
	return m.inFlight < m.limits.InFlight || !m.acks && m.receivedUpTo() > m.released
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
	known := place >= m.released-1
	if found := m.sub.Settle(m.accepted[place].ID()); found != known {
		t.Fatalf("settle has found %v, want %v", found, known)
	}
	m.acks, m.follows = true, true
	if place >= m.released {
		m.release(place + 1)
	}
}

func (m *model) end(t *rapid.T) {
	if m.sub == nil {
		return
	}
	how := rapid.SampledFrom([]broker.End{broker.EndClean, broker.EndFault}).Draw(t, "how")
	m.sub.End(how)
	if how == broker.EndClean && !m.follows {
		m.release(max(m.released, m.receivedUpTo()))
	}
	m.sub = nil
}

// release lets everything before a place go.
func (m *model) release(place int) {
	m.inFlight -= place - m.released
	m.released = place
	m.next = max(m.next, place)
}

func (m *model) check(t *rapid.T) {
	state, err := m.registry.State(t.Context(), m.addresses.Consumer)
	if err != nil {
		t.Fatal(err)
	}
	pending := len(m.accepted) - m.released - m.inFlight
	if state.Pending != pending || state.InFlight != m.inFlight || state.Connected != (m.sub != nil) {
		t.Fatalf("state %+v, want %d pending and %d in flight", state, pending, m.inFlight)
	}
	totals := m.registry.Stats()
	settled := m.total - m.undelivered - uint64(len(m.accepted)-m.released)
	if totals.Accepted != m.total || totals.Settled != settled || totals.Duplicates != m.repeated {
		t.Fatalf("%d accepted, %d settled and %d repeated, want %d, %d and %d",
			totals.Accepted, totals.Settled, totals.Duplicates, m.total, settled, m.repeated)
	}
}

// drain reads everything, as a consumer that has seen nothing yet of what is held.
func (m *model) drain(t *rapid.T) {
	for len(m.held) > 0 {
		m.leave(t)
	}
	sub, err := m.registry.Subscribe(t.Context(), m.addresses.Consumer, broker.SubscribeOptions{Limits: m.limits, TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	for place, total := m.released, 0; place < len(m.accepted); {
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) == 0 {
			t.Fatalf("messages from %d on are missing", place)
		}
		for _, message := range ms {
			if message != m.accepted[place] {
				t.Fatalf("took %s, want %s", message.Line(), m.accepted[place].Line())
			}
			place++
		}
		total += len(ms)
		sub.Received(total)
	}
}

package brokertest

import (
	"slices"

	"github.com/caddy-megaphone/megaphone/broker"
)

// subscribeOne gives a channel a reader, which may take over.
func (m *topicModel) subscribeOne() {
	if c := m.any(); c != nil {
		m.called("subscribe %s", c.id())
		c.reader, c.next = m.subscribe(c.Consumer, acknowledged, takeOver), 0
	}
}

// take takes all that there is to take from a channel, as the window allows.
func (m *topicModel) take() {
	c := m.any()
	if c == nil || c.reader == nil {
		return
	}
	m.called("take %s", c.id())
	m.takeFrom(c)
}

func (m *topicModel) takeFrom(c *modelChannel) {
	end := min(len(c.queue), max(c.inFlight, m.limits.InFlight))
	var want []*broker.Message
	for _, e := range c.queue[c.next:end] {
		want = append(want, e.Missed(e.missed))
	}
	if len(want) == 0 {
		return
	}
	got := c.reader.takeAtLeast(len(want))
	for i := range min(len(got), len(want)) {
		if c.again && !want[i].Keyed() && sameBut(got[i], want[i]) {
			c.queue[c.next+i].Message, c.queue[c.next+i].missed, want[i] = got[i], 0, got[i]
		}
	}
	if !same(got, want) {
		m.Fatalf("the reader of %s took %q, want %q", c.id(), lines(got), lines(want))
	}
	c.next, c.inFlight = end, max(c.inFlight, end)
	m.admit(c)
}

// settle settles some of what was taken.
func (m *topicModel) settle() {
	c := m.any()
	if c == nil || c.reader == nil || c.next == 0 {
		return
	}
	id := c.queue[m.IntN(c.next)].ID()
	m.called("settle %s", c.id())
	m.settleUpTo(c, id)
}

func (m *topicModel) settleUpTo(c *modelChannel, id broker.EventID) {
	n := 1 + slices.IndexFunc(c.queue, func(e modelEntry) bool { return e.ID() == id }) // one that came twice counts once
	if !c.reader.Settle(id) {
		m.Fatal("the message is not found")
	}
	c.queue, c.inFlight, c.next = c.queue[n:], c.inFlight-n, max(0, c.next-n)
}

func (m *topicModel) endRead() {
	if c := m.any(); c != nil && c.reader != nil {
		m.called("end the read of %s", c.id())
		c.reader.End(broker.EndFault)
		c.reader, c.next = nil, 0
	}
}

// visit reads some of what a channel holds.
func (m *topicModel) visit() {
	c := m.any()
	if c == nil {
		return
	}
	m.called("visit %s", c.id())
	c.reader, c.next = m.subscribe(c.Consumer, acknowledged, takeOver), 0
	for range m.IntN(3) {
		m.takeFrom(c)
		if c.next > 0 {
			m.settleUpTo(c, c.queue[m.IntN(c.next)].ID())
		}
	}
	c.reader.End(broker.EndFault)
	c.reader, c.next = nil, 0
}

// readAll reads all that a channel holds, as another reader.
func (m *topicModel) readAll(c *modelChannel) {
	c.reader, c.next = m.subscribe(c.Consumer, acknowledged, takeOver), 0
	for len(c.queue) > 0 {
		m.takeFrom(c)
		m.settleUpTo(c, c.queue[c.next-1].ID())
	}
	m.holds(c.Consumer, 0, 0) // a store elsewhere learns of it a moment later
}

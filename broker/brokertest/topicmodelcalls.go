package brokertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// create creates a channel that may know topics, and may join some.
func (m *topicModel) create() {
	if len(m.channels) == 5 {
		return
	}
	c := &modelChannel{had: map[broker.EventID]bool{}, knows: m.IntN(3) > 0}
	if !c.knows {
		c.Addresses = m.suite.create()
		m.channels = append(m.channels, c)
		m.called("create %s", c.id())
		return
	}
	var joins []broker.Join
	for range m.IntN(3) {
		joins = append(joins, broker.Join{Topic: m.name(), Last: m.IntN(4) - 1})
	}
	a, err := m.CreateMember(m.Context(), "agent", joins, m.limits)
	m.no(err)
	c.Addresses = a
	m.channels = append(m.channels, c)
	m.called("create member %s of %v", c.id(), joins)
	for _, j := range joins {
		m.joined(c, j)
	}
}

func (m *topicModel) join() {
	c := m.any()
	if c == nil {
		return
	}
	j := broker.Join{Topic: m.name(), Last: m.IntN(5) - 1}
	m.called("join %s %v", c.id(), j)
	err := m.Join(m.Context(), c.Producer, j, m.limits)
	if !slices.Contains(c.topics, j.Topic) && len(c.topics) >= m.limits.MaxTopics {
		m.is(err, broker.ErrTopicLimit)
		return
	}
	m.no(err)
	m.joined(c, j)
}

// joined makes a channel of the model a member.
func (m *topicModel) joined(c *modelChannel, j broker.Join) {
	if slices.Contains(c.topics, j.Topic) {
		return
	}
	t := m.topicOf(j.Topic)
	c.topics, t.members = append(c.topics, j.Topic), append(t.members, c)
	if j.Last == 0 {
		return
	}
	kept := t.kept
	if j.Last > 0 && j.Last < len(kept) {
		kept = kept[len(kept)-j.Last:]
	}
	for _, message := range kept {
		if c.again = true; !c.has(message) {
			m.offer(c, message, true)
		}
	}
	if t.end != nil && c.knows {
		c.again = true
		m.offer(c, t.end, true)
	}
	m.admit(c)
}

func (m *topicModel) leave() {
	c := m.any()
	if c == nil {
		return
	}
	name := m.name()
	m.called("leave %s %s", c.id(), name)
	m.topical.leave(c.Addresses, name)
	m.left(c, name)
	m.admit(c)
}

// left ends a membership of the model.
func (m *topicModel) left(c *modelChannel, name string) {
	if !slices.Contains(c.topics, name) {
		return
	}
	c.topics = slices.DeleteFunc(c.topics, func(n string) bool { return n == name })
	c.gap = true
	t := m.topics[name]
	t.members = slices.DeleteFunc(t.members, func(member *modelChannel) bool { return member == c })
	m.tidy(name)
	m.withdraw(c, func(h *modelHeld) bool { return h.topic == name })
}

// publish publishes a message without waiting.
func (m *topicModel) publish() {
	name, message := m.name(), m.messageOf()
	full := []broker.WhenFull{broker.FullMiss, broker.FullMiss, broker.FullHold, broker.FullDelete}[m.IntN(4)]
	m.called("publish %s %s %d", name, message.StreamID(), full)
	got, err := m.PublishTopic(m.Context(), name, message, full, m.limits)
	m.tries(name, message, full, nil, got, err)
}

// publishHeld publishes a message, and waits for members without room.
func (m *topicModel) publishHeld() {
	if len(m.publishes) == 3 {
		return
	}
	name, message, l := m.name(), m.messageOf(), m.limits
	m.called("publish and wait %s %s", name, message.StreamID())
	l.Hold = 1000 * time.Hour
	ctx, cancel := context.WithCancel(m.Context())
	p := &modelPublish{got: new(broker.Published), cancel: cancel}
	p.result = start(func() (err error) {
		*p.got, err = m.PublishTopic(ctx, name, message, broker.FullHold, l)
		return err
	})
	m.tries(name, message, broker.FullHold, p, broker.Published{}, nil)
}

// tries publishes a message in the model, and compares the outcome. If the call may wait, it is p.
func (m *topicModel) tries(name string, message *broker.Message, full broker.WhenFull, p *modelPublish, got broker.Published, err error) {
	t := m.topicOf(name)
	defer m.tidy(name)
	if t.end != nil {
		if p != nil {
			err = m.returned(p.result)
			p.cancel()
		}
		m.is(err, broker.ErrTopicClosed)
		return
	}
	m.published++
	if message.Size() <= t.keep.Bytes && (!message.Keyed() || !t.keys[message.ID()]) {
		t.kept = append(t.kept, message)
		t.keys[message.ID()] = true
		t.trim()
	}
	var want broker.Published
	for _, c := range slices.Clone(t.members) {
		want.Members++
		waits := slices.ContainsFunc(c.held, func(h *modelHeld) bool { return message.Keyed() && h.message.ID() == message.ID() })
		switch {
		case c.has(message):
			want.Accepted++
		case len(c.held) == 0 && m.offer(c, message, false):
			want.Accepted++
		case p != nil:
			c.held = append(c.held, &modelHeld{name, message, p})
			p.waiting++
		case waits:
			want.Full++
		default:
			want.Full++
			m.miss(c)
			if full == broker.FullDelete {
				m.deleted(c)
			}
		}
	}
	switch {
	case p == nil:
		m.no(err)
		if got != want {
			m.Fatalf("%+v is reported, want %+v", got, want)
		}
	case p.waiting == 0:
		m.told(p.got, p.result, want)
		p.cancel()
	default:
		p.want = want
		m.publishes = append(m.publishes, p)
		for range 4 {
			m.pause() // until it waits, in stores of several servers too
		}
	}
}

// cancel ends a publish that waits.
func (m *topicModel) cancel() {
	if len(m.publishes) == 0 {
		return
	}
	i := m.IntN(len(m.publishes))
	p := m.publishes[i]
	m.called("cancel")
	p.cancel()
	m.told(p.got, p.result, m.canceled(p))
	m.publishes = slices.Delete(m.publishes, i, i+1)
	for _, c := range m.channels {
		m.admit(c)
	}
}

// canceled withdraws what of a publish waits, and returns what it reports.
func (m *topicModel) canceled(p *modelPublish) broker.Published {
	for _, c := range m.channels {
		c.held = slices.DeleteFunc(c.held, func(h *modelHeld) bool {
			switch {
			case h.publish != p:
				return false
			case c.has(h.message):
				p.want.Accepted++
			default:
				p.want.Full++
				m.miss(c)
			}
			return true
		})
	}
	return p.want
}

// write writes a message to a channel without waiting.
func (m *topicModel) write() {
	c := m.any()
	if c == nil {
		return
	}
	message := m.messageOf()
	m.called("write %s %s", c.id(), message.StreamID())
	switch err := m.Publish(m.Context(), c.Producer, message, m.limits); {
	case c.has(message):
		m.no(err)
	case len(c.held) == 0 && m.offer(c, message, false):
		m.no(err)
	default:
		m.is(err, broker.ErrTimeout)
	}
}

func (m *topicModel) closeTopic() {
	if m.IntN(3) > 0 {
		return // or else most topics are closed
	}
	name := m.name()
	m.called("close %s", name)
	end := m.end(name)
	t := m.topicOf(name)
	defer m.tidy(name)
	if t.end != nil {
		return
	}
	t.end = end
	for _, c := range t.members {
		switch {
		case !c.knows:
		case slices.ContainsFunc(c.held, func(h *modelHeld) bool { return h.topic == name }):
			c.held = append(c.held, &modelHeld{name, end, nil})
		default:
			m.offer(c, end, true)
		}
	}
}

func (m *topicModel) keepTopic() {
	name, bytes := m.name(), int64(m.IntN(4))*500
	if bytes == 0 && m.IntN(4) > 0 {
		return
	}
	m.called("keep %s %d", name, bytes)
	m.keep(name, bytes, 1000*time.Hour)
	t := m.topicOf(name)
	t.keep, t.isSet = broker.Keep{Bytes: bytes, TTL: 1000 * time.Hour}, true
	t.trim()
}

func (m *topicModel) deleteOne() {
	if c := m.any(); c != nil && m.IntN(2) == 0 {
		m.called("delete %s", c.id())
		m.remove(c)
	}
}

// remove deletes a channel.
func (m *topicModel) remove(c *modelChannel) {
	m.delete(c.Consumer)
	m.deleted(c)
}

// deleted removes a channel from the model.
func (m *topicModel) deleted(c *modelChannel) {
	for len(c.topics) > 0 {
		m.left(c, c.topics[0])
	}
	if c.reader != nil {
		c.reader.over(broker.ErrNotFound)
	}
	m.undelivered += uint64(len(c.queue))
	m.channels = slices.DeleteFunc(m.channels, func(other *modelChannel) bool { return other == c })
}

// check compares all channels and topics with the model.
func (m *topicModel) check() {
	for _, c := range m.channels {
		m.holds(c.Consumer, len(c.queue)-c.inFlight, c.inFlight)
	}
	for name, t := range m.topics {
		want := broker.TopicInfo{Name: name, Members: len(t.members), Kept: len(t.kept), KeptBytes: totalSize(t.kept), Keep: t.keep}
		for _, c := range t.members {
			if c.reader != nil {
				want.Connected++
			}
		}
		if t.end != nil {
			want.Closed = t.end.End()
		}
		if !m.eventually(func() bool { return m.info(name) == want }) {
			m.Fatalf("the topic is %+v, want %+v", m.info(name), want)
		}
	}
	for _, p := range m.publishes {
		select {
		case err := <-p.result:
			m.Fatal(errors.Join(errors.New("a publish has returned that should wait"), err))
		default:
		}
	}
}

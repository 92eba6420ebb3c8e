package brokertest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicModelTests = group{
	// It makes random calls, one after the other, and compares the topics and their members with a model of plain slices. So
	// every message that was published between a channel's join and its leaving is delivered, in order, or counted as missed or
	// undelivered, exactly. MEGAPHONE_SEED repeats the run of a seed that a failure has logged.
	"random calls leave what the contract says": func(s *suite) {
		t := s.topics()
		runs, steps := 200, 100
		if t.realTime {
			runs, steps = 2, 60
		}
		again, err := strconv.ParseUint(os.Getenv("MEGAPHONE_SEED"), 10, 64)
		if err == nil {
			runs = 1
		}
		for range runs {
			seed := cmp.Or(again, rand.Uint64())
			m := &topicModel{topical: t, seed: seed, Rand: rand.New(rand.NewPCG(seed, 0)), topics: map[string]*modelTopic{}}
			m.run(steps)
		}
	},
}

// A topicModel is what topics and their members should hold.
type topicModel struct {
	*topical
	*rand.Rand

	seed      uint64
	merges    bool     // messages may be merged; then no reader waits while others write
	calls     []string // what was called, for a failure
	topics    map[string]*modelTopic
	channels  []*modelChannel
	publishes []*modelPublish // those that wait
	messages  int
	keys      int

	// These count all channels since the start of the run.
	accepted, skipped, published, undelivered uint64
}

// A modelTopic is a topic that exists.
type modelTopic struct {
	members []*modelChannel
	keep    broker.Keep
	isSet   bool
	kept    []*broker.Message
	keys    map[broker.EventID]bool // that it keeps or has let go
	end     *broker.Message
}

// A modelChannel is a channel and the reader that it has, if any.
type modelChannel struct {
	broker.Addresses

	knows    bool
	topics   []string
	queue    []modelEntry
	inFlight int
	missed   int
	again    bool                    // a join has brought kept messages, which have other event ids if the channel had them
	gap      bool                    // a piece may be missing after the newest message
	had      map[broker.EventID]bool // keyed messages
	held     []*modelHeld
	reader   *reader
	next     int // the index in queue of what the reader is given next
}

// A modelEntry is a message in a queue.
type modelEntry struct {
	*broker.Message

	missed  int
	outside bool // of the buffer, as long as it is pending
}

// newest returns the newest message of the queue, or nil if that is not pending.
func (c *modelChannel) newest() *modelEntry {
	if len(c.queue) == c.inFlight {
		return nil
	}
	return &c.queue[len(c.queue)-1]
}

// A modelHeld is a message of a topic that waits for room in a channel.
type modelHeld struct {
	topic   string
	message *broker.Message
	publish *modelPublish // nil for an end
}

// A modelPublish is a call that waits.
type modelPublish struct {
	want    broker.Published
	waiting int
	got     *broker.Published
	result  <-chan error
	cancel  context.CancelFunc
}

// run makes so many random calls.
func (m *topicModel) run(steps int) {
	defer func() {
		if m.Failed() {
			m.Logf("MEGAPHONE_SEED=%d, the calls were %s", m.seed, m.calls)
		}
	}()
	m.limits.Buffer, m.limits.InFlight, m.limits.MaxTopics, m.limits.Hold = 1+m.IntN(4), 1+m.IntN(4), 3, 0
	m.limits.TTL = 1000 * time.Hour
	m.limits.TopicKeep = broker.Keep{Bytes: int64(m.IntN(3)) * 700, TTL: 1000 * time.Hour}
	var before broker.Stats
	b, counts := m.Broker.(broker.Statser)
	if counts {
		before = b.Stats()
	}
	ops := []func(){
		m.create, m.join, m.join, m.leave, m.publish, m.publish, m.publish, m.write, m.write, m.closeTopic, m.keepTopic, m.deleteOne,
	}
	if m.merges = m.IntN(2) == 0; m.merges {
		ops = append(ops, m.visit, m.visit, m.visit)
	} else {
		ops = append(ops, m.subscribeOne, m.take, m.take, m.take, m.settle, m.settle, m.endRead)
	}
	// A store elsewhere gives a reader messages ahead, with which none is merged. So there, none may wait that a visit lets in.
	if !m.merges || !m.realTime {
		ops = append(ops, m.publishHeld, m.cancel)
	}
	for range steps {
		ops[m.IntN(len(ops))]()
		m.check()
	}
	for len(m.publishes) > 0 {
		m.cancel()
	}
	for len(m.channels) > 0 {
		m.readAll(m.channels[0])
		m.remove(m.channels[0])
	}
	if counts && !m.eventually(func() bool {
		s := b.Stats()
		return s.Accepted-before.Accepted == m.accepted && s.Skipped-before.Skipped == m.skipped &&
			s.Published-before.Published == m.published && s.AllUndelivered()-before.AllUndelivered() == m.undelivered &&
			s.Memberships == 0 && s.HeldProducers == 0 && s.HeldBytes == 0
	}) {
		m.Errorf("the statistics are %+v; since the start of the run, %d messages were accepted, %d skipped, %d published, %d undelivered",
			b.Stats(), m.accepted, m.skipped, m.published, m.undelivered)
	}
	for name := range m.topics {
		m.keep(name, 0, 0) // ends it
	}
}

// called notes a call.
func (m *topicModel) called(format string, args ...any) {
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

// name returns the name of one of a few topics of this run.
func (m *topicModel) name() string { return fmt.Sprint(m.seed, "/", m.IntN(3)) }

// topicOf returns a topic, which it makes if there is none.
func (m *topicModel) topicOf(name string) *modelTopic {
	t := m.topics[name]
	if t == nil {
		t = &modelTopic{keep: m.limits.TopicKeep, keys: map[broker.EventID]bool{}}
		m.topics[name] = t
	}
	return t
}

// tidy removes a topic that has neither members nor a memory.
func (m *topicModel) tidy(name string) {
	t := m.topics[name]
	if t != nil && len(t.members) == 0 && !t.isSet && len(t.kept) == 0 && (t.end == nil || t.keep.Bytes == 0) {
		delete(m.topics, name)
	}
}

// trim lets a topic keep no more than it may.
func (t *modelTopic) trim() {
	for totalSize(t.kept) > t.keep.Bytes {
		t.kept = t.kept[1:]
	}
}

// messageOf makes a message. Some have a key, and an earlier message may have had the same one.
func (m *topicModel) messageOf() *broker.Message {
	m.messages++
	key := ""
	if m.IntN(4) == 0 {
		m.keys++
		key = fmt.Sprint(m.seed, m.IntN(m.keys))
	}
	if !m.merges {
		return m.keyed(fmt.Sprint(m.messages), key)
	}
	message, err := broker.NewMessage(fmt.Sprint(m.IntN(2)), fmt.Appendf(nil, `"%d "`, m.messages), key)
	m.no(err)
	return message.WithMerge([]broker.Merge{broker.MergeNone, broker.MergeReplace, broker.MergeAppend, broker.MergeAppend}[m.IntN(4)])
}

// any returns one of the channels, or nil if there is none.
func (m *topicModel) any() *modelChannel {
	if len(m.channels) == 0 {
		return nil
	}
	return m.channels[m.IntN(len(m.channels))]
}

// id names a channel among the calls.
func (c *modelChannel) id() string { return c.Producer[len(c.Producer)-4:] }

// counted returns how many pending messages count toward the buffer.
func (c *modelChannel) counted() (n int) {
	for _, e := range c.queue[c.inFlight:] {
		if !e.outside {
			n++
		}
	}
	return n
}

// has reports whether the channel would drop a message as a duplicate.
func (c *modelChannel) has(message *broker.Message) bool {
	return message.Keyed() && c.had[message.ID()]
}

// offer adds a message to a channel's queue, or merges it with the newest one, if there is room. It reports whether it did.
func (m *topicModel) offer(c *modelChannel, message *broker.Message, outside bool) bool {
	newest := c.newest()
	switch {
	case newest != nil && message.CanMerge(newest.Message, m.limits.MaxMessage) && (!c.gap || message.Merge() == broker.MergeReplace):
		newest.Message = message.MergeWith(newest.Message)
	case outside || c.counted() < m.limits.Buffer:
		c.queue = append(c.queue, modelEntry{message, 0, outside})
	default:
		return false
	}
	if c.knows {
		c.newest().missed, c.missed = c.newest().missed+c.missed, 0
	}
	c.gap = c.gap && len(c.held) > 0 // what waits is older than what was missed meanwhile
	if message.Keyed() {
		c.had[message.ID()] = true
	}
	m.accepted++
	return true
}

func (m *topicModel) miss(c *modelChannel) {
	c.missed++
	c.gap = true
	m.skipped++
}

// admit admits what waits in a channel.
func (m *topicModel) admit(c *modelChannel) {
	for len(c.held) > 0 {
		h := c.held[0]
		switch {
		case c.has(h.message):
		case !m.offer(c, h.message, h.publish == nil):
			return
		}
		c.held = c.held[1:]
		if h.publish != nil {
			h.publish.want.Accepted++
			m.finished(h.publish)
		}
	}
}

// finished notes that a publish waits for one member less.
func (m *topicModel) finished(p *modelPublish) {
	if p.waiting--; p.waiting == 0 {
		m.publishes = slices.DeleteFunc(m.publishes, func(q *modelPublish) bool { return p == q })
		m.told(p.got, p.result, p.want)
		p.cancel()
	}
}

// withdraw removes what waits in a channel, if drop says so.
func (m *topicModel) withdraw(c *modelChannel, drop func(*modelHeld) bool) {
	for _, h := range slices.Clone(c.held) {
		if drop(h) {
			c.held = slices.DeleteFunc(c.held, func(g *modelHeld) bool { return g == h })
			if h.publish != nil {
				m.finished(h.publish)
			}
		}
	}
}

package brokertest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
)

func TestAGuestKeepsTheContract(t *testing.T) {
	brokertest.Run(t, brokertest.Options{New: newGuest})
	if !testing.Short() {
		brokertest.Run(t, brokertest.Options{New: newGuest, RealTime: true})
	}
}

// A guest is a Broker as another module may have it: it uses only package broker. It is short rather than fast. It keeps
// nothing of a message except what a store would keep.
type guest struct {
	mu       sync.Mutex // guards everything
	changed  *sync.Cond
	closed   bool
	created  int   // channels
	bytes    int64 // of all messages
	channels []*channel
}

func newGuest(*testing.T) broker.Broker {
	g := &guest{}
	g.changed = sync.NewCond(&g.mu)
	return g
}

type channel struct {
	broker.ChannelInfo // except the counts
	client             string
	ttl                time.Duration          // of its own, or 0
	messages           []broker.StoredMessage // the first inFlight of them are in flight
	inFlight           int
	writes             []*write // that are not done, in line
	reader             *subscription
	settled            broker.EventID   // the newest message that was let go
	keys               []broker.EventID // of keyed messages that were let go
	follows, acks      bool
	unconfirmed        int // so many messages, from the first, came in a read that ended unconfirmed
}

// A write is messages on their way into a channel, or into none.
type write struct {
	channel  *channel
	messages []broker.StoredMessage // that the channel has not accepted
	limits   broker.Limits
	broker.Outcome
	done bool

	in       *ingestion // nil if it belongs to none
	number   int
	producer string
}

// lock locks the Broker, and removes expired channels. The returned function lets waiting writes in, and unlocks.
func (g *guest) lock() (unlock func()) {
	g.mu.Lock()
	for _, c := range slices.Clone(g.channels) {
		if c.reader == nil && !time.Now().Before(c.Expires) {
			g.remove(c, broker.ErrNotFound)
		}
	}
	return func() {
		for _, c := range g.channels {
			g.admit(c)
		}
		g.changed.Broadcast()
		g.mu.Unlock()
	}
}

// wait waits until done returns true, or ctx ends. The lock is held, except during the wait.
func (g *guest) wait(ctx context.Context, done func() bool) (ok bool) {
	defer context.AfterFunc(ctx, func() { g.lock()() })()
	for !done() {
		if ctx.Err() != nil {
			return false
		}
		g.changed.Wait()
	}
	return true
}

func (g *guest) remove(c *channel, why error) {
	g.channels = slices.DeleteFunc(g.channels, func(other *channel) bool { return other == c })
	for _, w := range c.writes {
		w.finish(why)
	}
	c.writes = nil
	c.endReader(why)
	g.letGo(c, len(c.messages))
}

func (c *channel) endReader(why error) {
	if c.reader != nil {
		c.reader.err = why
		close(c.reader.done)
		c.reader = nil
	}
}

// Names by which a call may find a channel.
func (c *channel) producer() []string  { return []string{c.Producer} }
func (c *channel) consumer() []string  { return []string{c.Consumer} }
func (c *channel) addresses() []string { return []string{c.Producer, c.Consumer} }
func (c *channel) names() []string     { return []string{c.Producer, c.Consumer, c.ID} }

func (g *guest) find(name string, names func(*channel) []string) (*channel, error) {
	if g.closed {
		return nil, broker.ErrClosed
	}
	for _, c := range g.channels {
		if slices.Contains(names(c), name) {
			return c, nil
		}
	}
	return nil, broker.ErrNotFound
}

func (g *guest) Create(_ context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	defer g.lock()()
	ofClient := 0
	for _, c := range g.channels {
		if c.client == l.Client {
			ofClient++
		}
	}
	switch {
	case g.closed:
		return broker.Addresses{}, broker.ErrClosed
	case len(g.channels) >= l.MaxChannels:
		return broker.Addresses{}, broker.ErrChannelLimit
	case l.Client != "" && l.MaxChannelsPerClient > 0 && ofClient >= l.MaxChannelsPerClient:
		return broker.Addresses{}, broker.ErrClientLimit
	}
	g.created++
	a, b := broker.NewSecrets()
	c := &channel{client: l.Client, ttl: l.ChannelTTL}
	c.ID, c.Producer, c.Consumer = strconv.Itoa(g.created), broker.FormatAddress(agent, a), broker.FormatAddress(agent, b)
	c.Created = time.Now()
	g.expire(c, l)
	g.channels = append(g.channels, c)
	return c.Addresses, nil
}

func (g *guest) expire(c *channel, l broker.Limits) {
	ttl := cmp.Or(c.ttl, l.TTL)
	c.Expires = time.Now().Add(ttl)
	time.AfterFunc(ttl, func() { g.lock()() })
}

// admit takes what there is room for from the writes in line, and drops duplicates from all of them.
func (g *guest) admit(c *channel) {
	room := true
	c.writes = slices.DeleteFunc(c.writes, func(w *write) bool {
		for len(w.messages) > 0 {
			m := w.messages[0]
			merges := c.merges(w)
			room = room && (c.pending() < w.limits.Buffer || merges) && g.bytes < w.limits.MaxMemory
			if !m.Keyed || !slices.Contains(c.keys, m.ID) && c.index(m.ID, len(c.messages)) < 0 {
				if !room {
					return false
				}
				if merges {
					m = g.merge(c, m)
				}
				c.messages = append(c.messages, m)
				g.bytes += restore(m).Size()
				c.reader.wake()
			}
			w.messages = w.messages[1:]
			w.Accepted++
		}
		w.finish(nil)
		return true
	})
}

func (c *channel) pending() int { return len(c.messages) - c.inFlight }

// index returns the place of a message among the first n, or -1.
func (c *channel) index(id broker.EventID, n int) int {
	return slices.IndexFunc(c.messages[:n], func(m broker.StoredMessage) bool { return m.ID == id })
}

// begin puts messages in line. The lock is held.
func (g *guest) begin(producer string, ms []*broker.Message, l broker.Limits) *write {
	w := &write{limits: l, producer: producer}
	for _, m := range ms {
		w.messages = append(w.messages, broker.StoredMessage{
			ID: m.ID(), StreamID: m.StreamID(), Time: m.Time(), Keyed: m.Keyed(), Merge: m.Merge(), Body: bytes.Clone(m.Body()),
		})
	}
	var err error
	if w.channel, err = g.find(producer, (*channel).producer); err != nil {
		w.finish(err)
		return w
	}
	w.channel.writes = append(w.channel.writes, w)
	g.admit(w.channel)
	return w
}

func (w *write) finish(err error) { w.done, w.Err = true, err }

// withdraw ends a write that is not done. After a timeout it ends also the writes behind it that belong to its ingestion.
func (g *guest) withdraw(w *write, why error) {
	c, timeout := w.channel, errors.Is(why, broker.ErrTimeout)
	if w.done {
		return
	}
	if timeout && g.bytes >= w.limits.MaxMemory && (c.pending() < w.limits.Buffer || c.merges(w)) {
		why = broker.ErrMemoryLimit
	}
	w.finish(why)
	for _, other := range c.writes {
		if timeout && w.in != nil && other.in == w.in && !other.done {
			other.finish(broker.ErrSkipped)
		}
	}
	c.writes = slices.DeleteFunc(c.writes, func(w *write) bool { return w.done })
}

func allDone(writes []*write) func() bool {
	return func() bool { return !slices.ContainsFunc(writes, func(w *write) bool { return !w.done }) }
}

func (g *guest) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	hold, cancel := context.WithTimeout(ctx, l.Hold)
	defer cancel()
	defer g.lock()()
	var writes []*write
	for _, producer := range producers {
		writes = append(writes, g.begin(producer, ms, l))
	}
	g.wait(hold, allDone(writes))
	var outcomes []broker.Outcome
	for _, w := range writes {
		g.withdraw(w, cmp.Or(ctx.Err(), broker.ErrTimeout))
		outcomes = append(outcomes, w.Outcome)
	}
	return outcomes
}

func (g *guest) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	return g.PublishBatch(ctx, []string{producer}, []*broker.Message{m}, l)[0].Err
}

func (g *guest) PublishNow(string, *broker.Message, broker.Limits) bool { return false }

type ingestion struct {
	*guest
	limits broker.Limits
	writes []*write
}

func (g *guest) Ingest(l broker.Limits) broker.Ingestion { return &ingestion{g, l, nil} }

func (in *ingestion) Write(ctx context.Context, number int, producer []byte, m *broker.Message) error {
	defer in.lock()()
	w := in.begin(string(producer), []*broker.Message{m}, in.limits)
	w.in, w.number = in, number
	in.writes = append(in.writes, w)
	time.AfterFunc(in.limits.Hold, func() {
		defer in.lock()()
		in.withdraw(w, broker.ErrTimeout)
	})
	if !in.wait(ctx, func() bool { return in.heldBack() <= 1<<20 }) {
		return ctx.Err()
	}
	return nil
}

func (in *ingestion) heldBack() (size int64) {
	for _, w := range in.writes {
		if !w.done {
			size += restore(w.messages[0]).Size()
		}
	}
	return size
}

func (in *ingestion) Fail(number int, producer string, err error) {
	in.writes = append(in.writes, &write{number: number, producer: producer, done: true, Outcome: broker.Outcome{Err: err}})
}

func (in *ingestion) Finish(ctx context.Context) (result broker.IngestResult) {
	defer in.lock()()
	in.wait(ctx, allDone(in.writes))
	slices.SortStableFunc(in.writes, func(a, b *write) int { return cmp.Compare(a.number, b.number) })
	for _, w := range in.writes {
		if in.withdraw(w, ctx.Err()); w.Err == nil {
			result.Written++
			continue
		}
		if result.FailuresTotal++; result.FailuresTotal <= broker.MaxIngestFailures {
			result.Failures = append(result.Failures, broker.NewIngestFailure(w.number, w.producer, w.Err))
		}
		if errors.Is(w.Err, broker.ErrMemoryLimit) {
			result.RefusedMemory++
		}
	}
	return result
}

func (c *channel) info() broker.ChannelInfo {
	info := c.ChannelInfo
	info.Connected, info.Pending, info.InFlight, info.HeldProducers = c.reader != nil, c.pending(), c.inFlight, len(c.writes)
	if info.Connected {
		info.Expires = time.Time{}
	}
	return info
}

func (g *guest) Find(_ context.Context, name string) (info broker.ChannelInfo, err error) {
	defer g.lock()()
	c, err := g.find(name, (*channel).names)
	if err == nil {
		info = c.info()
	}
	return info, err
}

func (g *guest) State(_ context.Context, address string) (state broker.State, err error) {
	defer g.lock()()
	c, err := g.find(address, (*channel).addresses)
	if err == nil {
		state = c.info().State
	}
	return state, err
}

func (g *guest) Peek(_ context.Context, address string, limit int) (ms []*broker.Message, err error) {
	defer g.lock()()
	c, err := g.find(address, (*channel).addresses)
	if err == nil {
		for _, m := range c.messages[:min(limit, len(c.messages))] {
			ms = append(ms, restore(m))
		}
	}
	return ms, err
}

func (g *guest) Delete(_ context.Context, address string) error {
	defer g.lock()()
	c, err := g.find(address, (*channel).addresses)
	if err == nil {
		g.remove(c, broker.ErrNotFound)
	}
	return err
}

// List takes the number of channels that were created before the first of the page as its cursor.
func (g *guest) List(_ context.Context, o broker.ListOptions) (page broker.ChannelPage, err error) {
	defer g.lock()()
	after, err := strconv.ParseUint(cmp.Or(o.After, "0"), 10, 31)
	switch {
	case g.closed:
		return page, broker.ErrClosed
	case err != nil:
		return page, broker.ErrCursor
	}
	for _, c := range g.channels {
		info := c.info()
		switch number, _ := strconv.ParseUint(c.ID, 10, 31); {
		case number <= after, !strings.HasPrefix(c.Consumer, o.Agent+".") && o.Agent != "", time.Since(c.Created) < o.MinAge,
			info.Pending < o.MinPending, o.Connected != nil && *o.Connected != info.Connected:
		case len(page.Channels) == o.Limit:
			page.Next = page.Channels[o.Limit-1].ID
			return page, nil
		default:
			page.Channels = append(page.Channels, info)
		}
	}
	return page, nil
}

func (g *guest) Close() {
	defer g.lock()()
	g.closed = true
	for _, c := range slices.Clone(g.channels) {
		g.remove(c, broker.ErrClosed)
	}
}

package memory

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// maxExamined is how many channels List examines for one page at most. So a page takes a few milliseconds, however few
// channels match.
const maxExamined = 20_000

// List implements [broker.Broker].
func (b *Broker) List(_ context.Context, o broker.ListOptions) (broker.ChannelPage, error) {
	if b.isClosed() {
		return broker.ChannelPage{}, broker.ErrClosed
	}
	place, err := parseCursor(o.After)
	if err != nil {
		return broker.ChannelPage{}, err
	}
	page, now, examined := broker.ChannelPage{Channels: []broker.ChannelInfo{}}, b.now(), 0
	for c := range b.list.from(place) {
		if examined == maxExamined || len(page.Channels) >= o.Limit {
			page.Next = strconv.Itoa(c.place)
			break
		}
		examined++
		if c.expired(now) || max(0, now-c.created) < o.MinAge || o.Agent != "" && c.agent != o.Agent || !c.matches(&o) {
			continue
		}
		if state, err := c.state(); err == nil {
			page.Channels = append(page.Channels, c.info(state))
		}
	}
	return page, nil
}

// matches reports whether the channel matches those options that depend on its use: MinPending and Connected. It is
// cheaper than state.
func (c *channel) matches(o *broker.ListOptions) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.pending() >= o.MinPending && (o.Connected == nil || (c.reader != nil) == *o.Connected)
}

// parseCursor returns the place in the list where a page begins. The cursor is the place of the next channel. A channel
// never changes its place.
func parseCursor(cursor string) (place int, err error) {
	if cursor == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(cursor, 10, 31)
	if err != nil {
		return 0, broker.ErrCursor
	}
	return int(n), nil
}

// Find implements [broker.Broker].
func (b *Broker) Find(_ context.Context, name string) (broker.ChannelInfo, error) {
	if b.isClosed() {
		return broker.ChannelInfo{}, broker.ErrClosed
	}
	c := b.byID(name)
	if c == nil {
		var err error
		if c, err = b.lookup(name, producerKind|consumerKind); err != nil {
			return broker.ChannelInfo{}, err
		}
	}
	state, err := c.state()
	if err != nil {
		return broker.ChannelInfo{}, err
	}
	return c.info(state), nil
}

// Peek implements [broker.Broker].
func (b *Broker) Peek(_ context.Context, address string, limit int) ([]*broker.Message, error) {
	c, err := b.lookup(address, producerKind|consumerKind)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return nil, c.closed.err()
	}
	ms := make([]*broker.Message, 0, min(limit, c.queue.len-c.notDurable()))
	for i := range cap(ms) {
		ms = append(ms, c.queue.at(i))
	}
	return ms, nil
}

// id returns the channel's id: its place in the list and its tag. The place finds the channel. The tag distinguishes it
// from the channels that have had that place or will have it.
func (c *channel) id() string {
	var id [8]byte
	binary.BigEndian.PutUint32(id[:], uint32(c.place)) //nolint:gosec // there are far fewer channels
	binary.BigEndian.PutUint32(id[4:], c.tag)
	return hex.EncodeToString(id[:])
}

// byID returns the live channel with an id, or nil if there is none.
func (b *Broker) byID(id string) *channel {
	decoded, err := hex.DecodeString(id)
	if err != nil || len(decoded) != 8 {
		return nil
	}
	c := b.list.at(int(binary.BigEndian.Uint32(decoded)))
	if c == nil || c.id() != id || c.expired(b.now()) {
		return nil
	}
	return c
}

func (c *channel) info(s broker.State) broker.ChannelInfo {
	return broker.ChannelInfo{
		ID:        c.id(),
		Addresses: c.addresses(),
		State:     s,
	}
}

// state returns the channel's state. It fails with c.closed.
func (c *channel) state() (broker.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return broker.State{}, c.closed.err()
	}
	s := broker.State{
		Connected:     c.reader != nil,
		Pending:       c.queue.pending(),
		InFlight:      c.queue.inFlight,
		HeldProducers: c.held.len(),
		Created:       c.broker.wallTime(c.created),
	}
	if c.lastRead != 0 {
		s.LastRead = c.broker.wallTime(c.lastRead)
	}
	if c.reader == nil {
		s.Expires = c.broker.wallTime(time.Duration(c.expires.Load()))
	}
	return s, nil
}

package memory

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"github.com/caddy-megaphone/megaphone/broker"
	"strconv"
)

// maxExamined is how many channels are looked at for one page, so that it is there in a few milliseconds however
// few of the channels are wanted.
const maxExamined = 20_000

// List implements [broker.Broker].
func (r *Broker) List(_ context.Context, o broker.ListOptions) (broker.ChannelPage, error) {
	if r.isClosed() {
		return broker.ChannelPage{}, broker.ErrClosed
	}
	place, err := parseCursor(o.After)
	if err != nil {
		return broker.ChannelPage{}, err
	}
	page, now, examined := broker.ChannelPage{Channels: []broker.ChannelInfo{}}, r.now(), 0
	for c := range r.list.from(place) {
		if examined == maxExamined || len(page.Channels) >= o.Limit {
			page.Next = strconv.Itoa(c.place)
			break
		}
		examined++
		if c.expired(now) || now-c.created < o.MinAge || o.Agent != "" && c.agent != o.Agent || !c.matches(&o) {
			continue
		}
		if state, err := c.state(); err == nil {
			page.Channels = append(page.Channels, c.info(state))
		}
	}
	return page, nil
}

// matches reports whether the channel is as the options say that change with its use. A state costs more.
func (c *channel) matches(o *broker.ListOptions) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.pending() >= o.MinPending && (o.Connected == nil || (c.reader != nil) == *o.Connected)
}

// A cursor is the place in the list of the channel that comes next. A channel never changes its place.
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
func (r *Broker) Find(_ context.Context, name string) (broker.ChannelInfo, error) {
	if r.isClosed() {
		return broker.ChannelInfo{}, broker.ErrClosed
	}
	c := r.byID(name)
	if c == nil {
		var err error
		if c, err = r.lookup(name, producerKind|consumerKind); err != nil {
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
func (r *Broker) Peek(_ context.Context, address string, limit int) ([]*broker.Message, error) {
	c, err := r.lookup(address, producerKind|consumerKind)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ms := make([]*broker.Message, 0, min(limit, c.queue.len))
	for i := range cap(ms) {
		ms = append(ms, c.queue.at(i))
	}
	return ms, nil
}

// id spells a channel's place in the list, by which it is found, and its tag, by which it is told from all others
// that had or will have the place.
func (c *channel) id() string {
	var id [8]byte
	binary.BigEndian.PutUint32(id[:], uint32(c.place)) //nolint:gosec // there are far fewer channels
	binary.BigEndian.PutUint32(id[4:], c.tag)
	return hex.EncodeToString(id[:])
}

// byID returns the live channel with an id, or nil.
func (r *Broker) byID(id string) *channel {
	decoded, err := hex.DecodeString(id)
	if err != nil || len(decoded) != 8 {
		return nil
	}
	c := r.list.at(int(binary.BigEndian.Uint32(decoded)))
	if c == nil || c.id() != id || c.expired(r.now()) {
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

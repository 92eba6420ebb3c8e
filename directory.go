package megaphone

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"time"
)

// A ChannelInfo is what operators are told of a channel.
type ChannelInfo struct {
	// ID names the channel to operators for as long as it lives, and is never given to another. It is no secret: no
	// endpoint of a site takes it.
	ID string

	Addresses
	State
}

// ListOptions say which channels a page lists.
type ListOptions struct {
	// After is the Next of the page before, or empty for the first page.
	After string
	// Limit is how many channels a page has at most. At least 1.
	Limit int

	// Agent, if not empty, is the first part of the addresses of those that are listed.
	Agent string
	// Connected, if not nil, tells whether they have a reader.
	Connected *bool
	// MinAge is how long ago they were created, at least.
	MinAge time.Duration
	// MinPending is how many messages are pending, at least.
	MinPending int
}

// A ChannelPage is a part of the list of all channels.
type ChannelPage struct {
	Channels []ChannelInfo
	// Next is where the list goes on, or empty at its end.
	Next string
}

// ErrCursor marks a place in the list of channels that no page has given out.
var ErrCursor = errors.New("this is no cursor of a list of channels")

// maxExamined is how many channels are looked at for one page, so that it is there in a few milliseconds however
// few of the channels are wanted.
const maxExamined = 20_000

// List implements [Broker].
func (r *Registry) List(_ context.Context, o ListOptions) (ChannelPage, error) {
	if r.isClosed() {
		return ChannelPage{}, ErrClosed
	}
	place, err := parseCursor(o.After)
	if err != nil {
		return ChannelPage{}, err
	}
	page, now, examined := ChannelPage{Channels: []ChannelInfo{}}, r.now(), 0
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
func (c *channel) matches(o *ListOptions) bool {
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
		return 0, ErrCursor
	}
	return int(n), nil
}

// Find implements [Broker].
func (r *Registry) Find(_ context.Context, name string) (ChannelInfo, error) {
	if r.isClosed() {
		return ChannelInfo{}, ErrClosed
	}
	c := r.byID(name)
	if c == nil {
		var err error
		if c, err = r.lookup(name, producerKind|consumerKind); err != nil {
			return ChannelInfo{}, err
		}
	}
	state, err := c.state()
	if err != nil {
		return ChannelInfo{}, err
	}
	return c.info(state), nil
}

// Peek implements [Broker].
func (r *Registry) Peek(_ context.Context, address string, limit int) ([]*Message, error) {
	c, err := r.lookup(address, producerKind|consumerKind)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ms := make([]*Message, 0, min(limit, c.queue.len))
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
func (r *Registry) byID(id string) *channel {
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

func (c *channel) info(s State) ChannelInfo {
	return ChannelInfo{
		ID:        c.id(),
		Addresses: Addresses{formatAddress(c.agent, c.producer), formatAddress(c.agent, c.consumer)},
		State:     s,
	}
}

package redis

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// readState reads the state of a channel. It fails with ErrNotFound and ErrClosed.
func (b *Broker) readState(ctx context.Context, x channelID) (channelState, error) {
	s, err := b.do(ctx, b.client, b.client.B().Get().Key(b.keys.key('s', x)).Build()).ToString()
	switch {
	case rueidis.IsRedisNil(err):
		return channelState{}, b.gone()
	case err != nil:
		return channelState{}, b.failed(err, false)
	}
	c, ok := parseState(s)
	if !ok {
		return c, errData
	}
	return c, nil
}

// find returns the channel that an address of either kind names.
func (b *Broker) find(ctx context.Context, address string) (channelID, channelState, error) {
	if err := b.ready(ctx); err != nil {
		return channelID{}, channelState{}, err
	}
	for _, consumer := range []bool{true, false} {
		x, err := b.decode(address, consumer)
		if err != nil {
			return x, channelState{}, err
		}
		c, err := b.readState(b.background, x)
		if err != broker.ErrNotFound || !consumer { //nolint:errorlint // readState returns it as it is
			return x, c, err
		}
	}
	return channelID{}, channelState{}, b.gone()
}

// State implements [broker.Broker].
func (b *Broker) State(ctx context.Context, address string) (broker.State, error) {
	_, c, err := b.find(ctx, address)
	if err != nil {
		return broker.State{}, err
	}
	return c.state(), nil
}

func (b *Broker) info(x channelID, c *channelState) broker.ChannelInfo {
	return broker.ChannelInfo{ID: x.String(), Addresses: b.codec.Load().addresses(x, c.agent), State: c.state()}
}

// Find implements [broker.Broker].
func (b *Broker) Find(ctx context.Context, name string) (broker.ChannelInfo, error) {
	if err := b.ready(ctx); err != nil {
		return broker.ChannelInfo{}, err
	}
	x, ok := parseChannelID(name)
	var c channelState
	var err error
	if ok {
		c, err = b.readState(b.background, x)
	} else {
		x, c, err = b.find(ctx, name)
	}
	if err != nil {
		return broker.ChannelInfo{}, err
	}
	return b.info(x, &c), nil
}

// Peek implements [broker.Broker].
func (b *Broker) Peek(ctx context.Context, address string, limit int) ([]*broker.Message, error) {
	x, _, err := b.find(ctx, address)
	if err != nil || limit <= 0 {
		return nil, err
	}
	lines, err := b.do(b.background, b.client, b.client.B().Lrange().Key(b.keys.key('q', x)).Start(0).Stop(int64(limit-1)).Build()).AsStrSlice()
	if err != nil {
		return nil, b.failed(err, false)
	}
	ms := make([]*broker.Message, len(lines))
	for i, line := range lines {
		d, err := decodeMessage(line)
		if err != nil {
			return nil, err
		}
		ms[i] = d.Message
	}
	return ms, nil
}

const (
	// maxListed is how many channels one call reads at once.
	maxListed = 128
	// maxExamined is how many channels a page looks at.
	maxExamined = 2000
)

// List implements [broker.Broker]. Channels come by partition, then by id.
func (b *Broker) List(ctx context.Context, o broker.ListOptions) (broker.ChannelPage, error) {
	if err := b.ready(ctx); err != nil {
		return broker.ChannelPage{}, err
	}
	var after channelID
	if o.After != "" {
		var ok bool
		if after, ok = parseChannelID(o.After); !ok {
			return broker.ChannelPage{}, broker.ErrCursor
		}
	}
	sizes, err := b.partitionSizes(after.partition())
	if err != nil {
		return broker.ChannelPage{}, err
	}
	var page broker.ChannelPage
	examined := 0
	for i, size := range sizes {
		if size == 0 {
			continue
		}
		ids, err := b.members(after.partition()+i, after, o.After != "" && i == 0)
		if err != nil {
			return broker.ChannelPage{}, err
		}
		for some := range slices.Chunk(ids, maxListed) {
			channels, err := b.readStates(some)
			if err != nil {
				return broker.ChannelPage{}, err
			}
			for j, x := range some {
				if c := channels[j]; c != nil && matches(c, &o) {
					page.Channels = append(page.Channels, b.info(x, c))
				}
				if examined++; len(page.Channels) == o.Limit || examined == maxExamined {
					page.Next = x.String()
					return page, nil
				}
			}
		}
	}
	return page, nil
}

// partitionSizes returns how many channels there are in each partition from one on.
func (b *Broker) partitionSizes(first int) ([]int64, error) {
	var commands []rueidis.Completed
	for p := first; p < partitions; p++ {
		commands = append(commands, b.client.B().Zcard().Key(b.keys.expiries(p)).Build())
	}
	return b.counts(commands)
}

// members returns the channels of a partition in order, all or those after one.
func (b *Broker) members(partition int, after channelID, resume bool) ([]channelID, error) {
	names, err := b.do(b.background, b.client, b.client.B().Zrange().Key(b.keys.expiries(partition)).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		return nil, b.failed(err, false)
	}
	ids := make([]channelID, 0, len(names))
	for _, name := range names {
		if x, ok := toChannelID(name); ok && (!resume || bytes.Compare(x[:], after[:]) > 0) {
			ids = append(ids, x)
		}
	}
	slices.SortFunc(ids, func(a, b channelID) int { return bytes.Compare(a[:], b[:]) })
	return ids, nil
}

// readStates reads the states of channels of one partition. Those of channels that are gone are nil.
func (b *Broker) readStates(ids []channelID) ([]*channelState, error) {
	keys := make([]string, len(ids))
	for i, x := range ids {
		keys[i] = b.keys.key('s', x)
	}
	values, err := b.do(b.background, b.client, b.client.B().Mget().Key(keys...).Build()).ToArray()
	if err != nil || len(values) != len(ids) {
		return nil, b.failed(err, false)
	}
	states := make([]*channelState, len(ids))
	for i, value := range values {
		if s, err := value.ToString(); err == nil {
			if c, ok := parseState(s); ok {
				states[i] = &c
			}
		}
	}
	return states, nil
}

func matches(c *channelState, o *broker.ListOptions) bool {
	return (o.Agent == "" || c.agent == o.Agent) &&
		(o.Connected == nil || (c.flags&flagReader != 0) == *o.Connected) &&
		(o.MinAge == 0 || time.Since(timeOf(c.created)) >= o.MinAge) &&
		int(c.length-c.inFlight) >= o.MinPending //nolint:gosec // 3 bytes
}

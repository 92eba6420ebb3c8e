package memory

import (
	"math"

	"github.com/caddy-megaphone/megaphone/broker"
)

// bring brings the channel what a topic keeps. The lock is held.
func (c *channel) bring(all []kept, l *broker.Limits) error {
	if len(all) == 0 {
		return nil
	}
	for all = c.unknown(all); len(all) > 0; {
		n := c.mergeable(all, l)
		if err := c.bringMerged(all[:n], l); err != nil {
			return err
		}
		all = all[n:]
	}
	if c.held.first != nil {
		c.admitHeld() // what waits may have the key of a kept message
	}
	return nil
}

// mergeable returns how many of the messages, from the first on, would become one if they came one after the other. They are merged
// in one step, or else a long text would be copied for each of its pieces. The lock is held.
func (c *channel) mergeable(all []kept, l *broker.Limits) int {
	first := all[0]
	if !c.broker.budget.hasRoom(l.MaxMemory) || c.held.first != nil && c.hasGap(first.Message) {
		return 1
	}
	size := len(first.Body())
	if c.merges(first.Message, l) {
		size = first.SizeBehind(len(c.queue.newest().Body()))
	}
	n := 1
	for ; n < len(all) && all[n].CanMerge(all[n-1].Message, math.MaxInt64); n++ {
		if all[n].Merge() == broker.MergeAppend {
			if size = all[n].SizeBehind(size); int64(size) > l.MaxMessage {
				break
			}
		}
	}
	return n
}

// bringMerged brings the channel what kept messages become that are merged. The lock is held.
func (c *channel) bringMerged(run []kept, l *broker.Limits) error {
	older, last := run[:len(run)-1], run[len(run)-1]
	var keys []broker.EventID
	if len(older) > 0 {
		ms := make([]*broker.Message, len(older))
		for i, k := range older {
			if ms[i] = k.Message; k.Keyed() {
				keys = append(keys, k.ID())
			}
		}
		if whole := last.MergeWith(ms...); whole != last.Message {
			last = kept{Message: whole}
		}
	}
	if err := c.putOutside(last.Message, l, last.batch); err != nil {
		return err
	}
	if len(older) > 0 {
		c.counters.accepted.Add(uint64(len(older)))
		c.counters.merged[last.Merge()-broker.MergeReplace].Add(uint64(len(older)))
	}
	c.rememberMerged(keys)
	return nil
}

// unknown returns those of the kept messages that the channel would not drop as duplicates. The lock is held.
func (c *channel) unknown(all []kept) []kept {
	known, unknown := c.knownIDs(), all[:0]
	for _, m := range all {
		if _, has := known.keyed[m.ID()]; has {
			continue
		}
		if _, has := known.cursors[m.ID()]; has {
			m = kept{Message: m.Again()} // or else a cursor could mean both
		}
		unknown = append(unknown, m)
	}
	return unknown
}

// knownIDs are event ids that mean something to a channel.
type knownIDs struct {
	keyed   map[broker.EventID]struct{} // by which isDuplicate recognises messages
	cursors map[broker.EventID]struct{} // of other messages, which a cursor may show now or later
}

// knownIDs returns the ids that the channel knows. The lock is held.
func (c *channel) knownIDs() (known knownIDs) {
	if c.queue.len == 0 && c.letGoKeys == nil && c.settled == (broker.EventID{}) {
		return known // a new channel
	}
	known.keyed, known.cursors = map[broker.EventID]struct{}{}, map[broker.EventID]struct{}{c.settled: {}}
	for _, id := range c.letGoKeys.last(broker.KeyWindow) {
		known.keyed[id] = struct{}{}
	}
	for i := range c.queue.len {
		if m := c.queue.at(i); m.Keyed() {
			known.keyed[m.ID()] = struct{}{}
		} else {
			known.cursors[m.ID()] = struct{}{}
		}
	}
	return known
}

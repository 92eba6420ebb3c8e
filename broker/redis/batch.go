package redis

import (
	"slices"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// publishArgs is how many arguments come before the messages: see lua/publish.lua.
const publishArgs = 10

// publishCall returns the call that writes items. Those of one channel stand together.
func (b *Broker) publishCall(scope int, batch []*item) scriptCall {
	keys := make([]string, 1, 2*len(batch)+1)
	keys[0] = b.keys.counters(scope)
	args := make([]string, publishArgs, publishArgs+len(batch))
	items, numbers, spans := make(packer, 0, 5*len(batch)), make(packer, 0, 6*len(batch)), make(packer, 0, 7*len(batch))
	var all span // of the channel
	var limits []itemLimits
	size, keyed := 0, false
	begins := make(map[*string]int, len(batch)) // where in args messages begin that several items may share
	for i, it := range batch {
		if i == 0 || it.x != batch[i-1].x {
			keys = append(keys, b.keys.key('s', it.x))
		}
		begin, known := begins[&it.ms[0]]
		if !known {
			begin = len(args) + 1
			begins[&it.ms[0]] = begin
			args = append(args, it.ms...)
		}
		l := limitsOf(it.limits)
		at := slices.Index(limits, l)
		if at < 0 {
			at, limits = len(limits), append(limits, l)
		}
		follows := i+1 < len(batch) && batch[i+1].x == it.x
		items = items.put(1, int64(2*at)+one(follows)).put(2, int64(begin)).put(2, int64(len(it.ms)))
		numbers = appendNumber(numbers, it.number, 6)
		all.add(it, begin, at)
		if !follows {
			spans, all = all.put(spans), span{}
		}
		size += it.size + len(it.ms)*(messageOverhead-messageHead)
		keyed = keyed || it.keyed
	}
	for i, it := range batch {
		if i == 0 || it.x != batch[i-1].x {
			keys = append(keys, b.keys.key('q', it.x))
		}
	}
	messages := args[publishArgs:]
	args[0], args[1], args[2] = b.keys.pushPrefix(scope), b.node, rueidis.BinaryString(items)
	args[3], args[4] = rueidis.BinaryString(packLimits(limits)), rueidis.BinaryString(numbers)
	args[5], args[6], args[7], args[8] = text(b.ledger.elsewhere(scope).bytes), text(int64(size)), "0", "0"
	args[9] = rueidis.BinaryString(spans)
	if len(begins) < len(batch) {
		args[8] = text(int64(len(messages)))
	}
	if keyed {
		args[7] = text(int64(len(messages)))
		for _, m := range messages {
			args = append(args, keyOf(m))
		}
	}
	return scriptCall{keys, args}
}

// A span is all items of one channel, as lua/publish.lua takes it at once. The zero value has none.
type span struct {
	items, begin, messages, limits int
	mixed                          bool // it cannot be taken at once
}

// add adds an item, whose messages begin somewhere in the arguments, with its limits.
func (s *span) add(it *item, begin, limits int) {
	if s.items == 0 {
		s.begin, s.limits = begin, limits
	}
	s.mixed = s.mixed || it.keyed || it.single || begin != s.begin+s.messages || limits != s.limits
	s.items++
	s.messages += len(it.ms)
}

func (s *span) put(p packer) packer {
	messages := s.messages
	if s.mixed {
		messages = 0
	}
	return p.put(2, int64(s.begin)).put(2, int64(messages)).put(2, int64(s.items)).put(1, int64(2*s.limits))
}

// itemLimits is what lua/publish.lua knows of the limits of items: the buffer, the longest wait, and the memory.
type itemLimits [3]int64

func limitsOf(l *broker.Limits) itemLimits {
	return itemLimits{int64(l.Buffer), ms(l.Hold), min(l.MaxMemory, maxMemory)}
}

func packLimits(limits []itemLimits) packer {
	p := make(packer, 0, 16*len(limits))
	for _, l := range limits {
		p = p.put(4, l[0]).put(5, l[1]).put(7, l[2])
	}
	return p
}

// byChannel puts the items of each channel together, in their order.
func byChannel(batch []*item) []*item {
	first := make(map[channelID]int, len(batch))
	for i, it := range batch {
		if _, ok := first[it.x]; !ok {
			first[it.x] = i
		}
	}
	if len(first) < len(batch) {
		slices.SortStableFunc(batch, func(a, b *item) int { return first[a.x] - first[b.x] })
	}
	return batch
}

// readOutcomes reads the reply of lua/publish.lua into items.
func readOutcomes(reply rueidis.RedisMessage, batch []*item) {
	const size = 9
	outcomes, err := reply.ToString()
	for i, it := range batch {
		switch {
		case err != nil: // the reply is a number: all is taken
			it.accepted = len(it.ms)
		case len(outcomes) < (i+1)*size:
			it.err = errData
		default:
			o := outcomes[i*size : (i+1)*size]
			it.status, it.accepted, it.duplicates = itemStatus(o[0]), int(number(o[1:3])), int(number(o[3:5])) //nolint:gosec // 2 bytes
			it.replaced, it.appended = int(number(o[5:7])), int(number(o[7:9]))                                //nolint:gosec // 2 bytes
		}
	}
}

package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A walk brings a message, or the end, to all members of a topic. Walks over one topic take turns, which its home gives. A walk has
// a number, which is larger than those before. It visits the scopes that have members, at most a hundred members of each in one
// call: see lua/walk.lua.
type walk struct {
	broker  *Broker
	topic   string
	message string // as encode makes it
	closes  bool
	full    broker.WhenFull
	limits  broker.Limits

	home    int
	turn    uint64 // names this call
	number  int64  // of the walk; 0 if there is no topic
	renewed time.Time
	records map[int]string // ids of the topic's records in other scopes, as its home knows them

	result  broker.Published
	held    []*waiter   // for members in which the message waits
	deletes []channelID // members without room, with FullDelete
}

// Steps of lua/walk.lua.
const (
	stepBegin  = 1
	stepVisit  = 2
	stepFinish = 4 // if all were visited
	stepEnd    = 8
	stepRenew  = 16
	stepAll    = 32 // all members have the end
)

const (
	// maxVisited is how many members one call visits.
	maxVisited = 100
	// renewInterval is how often a walk tells that it goes on. Others wait for it at most three times as long.
	renewInterval = 3 * time.Second
	// maxTurn is how long a walk waits for its turn before it asks whether the node that has it still lives.
	maxTurn = time.Second
	// maxWaitingMembers is how many calls of this node may wait for room at once when a publish adds one for a member.
	maxWaitingMembers = 100_000
	// maxScopes is how many scopes a walk visits at once.
	maxScopes = 16
)

// errFenced is the error of a walk that another one has overtaken.
var errFenced = fmt.Errorf("%w: redis: it took so long that another message was published to the topic meanwhile", broker.ErrOutcomeUnknown)

func (b *Broker) newWalk(topic string, m *broker.Message, l *broker.Limits) *walk {
	topic = strings.Clone(topic) // a call may outlive its request
	return &walk{
		broker: b, topic: topic, message: rueidis.BinaryString(encode(m, l.MaxMessage)), limits: *l, home: b.keys.home(topic),
		turn: b.waiters.number(), records: map[int]string{},
	}
}

// run waits for the walk's turn, and walks. If it fails after it has begun, the error is ErrOutcomeUnknown.
func (w *walk) run(ctx context.Context) error {
	b := w.broker
	release, err := b.turns.take(ctx, w.topic, b.closing)
	if err != nil {
		return err
	}
	defer release()
	first, err := w.begin(ctx)
	if err != nil || w.number == 0 {
		return err
	}
	return w.visitRest(first)
}

// visitRest visits the members that the first call has not visited, and ends the walk.
func (w *walk) visitRest(first walkReply) error {
	places := first.others
	if !first.done {
		places = append([]int{w.home}, places...)
	}
	if len(places) == 0 {
		return nil // the first call has ended it
	}
	err := w.visitAll(places, len(first.others) == 0)
	if err == nil && len(first.others) > 0 {
		_, _ = w.call(w.home, stepEnd|stepAll)
	} else if err != nil {
		w.end()
	}
	return err
}

// countPublish counts a walk that has begun.
func (s *stats) countPublish(closes bool) {
	if !closes {
		s.published.Add(1)
	}
}

// begin begins the walk, and visits the first members.
func (w *walk) begin(ctx context.Context) (walkReply, error) {
	b := w.broker
	waits := b.waiters.add(&item{number: w.turn})
	defer b.waiters.remove(waits)
	for {
		r, err := w.call(w.home, stepBegin|stepVisit|stepFinish)
		if err != nil {
			if !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrMemoryLimit) {
				w.end() // it may have begun
			}
			return r, err
		}
		switch r.code {
		case walkVisited:
			w.number, w.renewed = r.value, time.Now()
			b.stats.countPublish(w.closes)
			return r, nil
		case walkFenced:
			w.end()
			return r, errFenced
		case walkNothing:
			b.stats.countPublish(w.closes)
			return r, nil
		case walkClosed:
			return r, broker.ErrTopicClosed
		case walkNoMemory:
			return r, broker.ErrMemoryLimit
		}
		timer := time.NewTimer(min(time.Duration(r.value)*time.Millisecond, maxTurn) + time.Millisecond)
		select {
		case <-waits.notes:
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		case <-b.closing:
			err = broker.ErrClosed
		}
		timer.Stop()
		if err != nil {
			w.withdraw()
			return r, err
		}
	}
}

// visitAll visits the members of some scopes. last tells that the home is the only one, so that the walk ends with it.
func (w *walk) visitAll(places []int, last bool) error {
	b := w.broker
	steps := stepVisit | stepRenew
	if last {
		steps |= stepFinish
	}
	for len(places) > 0 {
		if time.Since(w.renewed) > renewInterval {
			w.renewed = time.Now()
			if _, err := w.call(w.home, stepRenew); err != nil {
				return unknown(err)
			}
		}
		some := places[:min(len(places), maxScopes)]
		calls := make([]scriptCall, len(some))
		for i, scope := range some {
			calls[i] = w.scriptCall(scope, steps)
		}
		var left []int
		for i, reply := range w.runAll(calls) {
			r, err := w.read(reply)
			switch {
			case err != nil:
				return unknown(err)
			case r.code != walkVisited:
				return errFenced
			case r.empty && w.records[some[i]] != "":
				_ = b.tell(some[i], []change{{hasNone, w.records[some[i]], w.topic}}) // or else another walk does
			case !r.done:
				left = append(left, some[i])
			}
		}
		places = append(left, places[len(some):]...)
	}
	return nil
}

// unknown makes sure that an error says that the outcome is not known.
func unknown(err error) error { return fmt.Errorf("%w: %w", broker.ErrOutcomeUnknown, err) }

// end ends the walk. If that fails, the turn passes on by itself after a while.
func (w *walk) end() {
	_, _ = w.call(w.home, stepEnd)
}

// withdraw gives up the wait for the turn, or passes it on.
func (w *walk) withdraw() {
	b, c := w.broker, w.broker.client
	id := rueidis.BinaryString(appendNumber([]byte(b.node), w.turn, 6))
	_ = b.do(b.background, c, c.B().Lrem().Key(b.keys.topic("Q", w.home, w.topic)).Count(1).Element(id).Build())
	w.end()
}

// call runs lua/walk.lua once.
func (w *walk) call(scope, steps int) (walkReply, error) {
	return w.read(w.runAll([]scriptCall{w.scriptCall(scope, steps)})[0])
}

// scriptCall returns a call of lua/walk.lua.
func (w *walk) scriptCall(scope, steps int) scriptCall {
	b, l := w.broker, &w.limits
	elsewhere, message := b.ledger.elsewhere(scope), w.message
	if steps&(stepBegin|stepVisit) == 0 {
		message = message[:1]
	}
	first := b.waiters.numbers(maxVisited) // of the calls that wait in members without room
	hold := int64(0)
	if w.full == broker.FullHold && b.waiters.count() < maxWaitingMembers {
		hold = ms(l.Hold)
	}
	numbers := packer{}.put(1, int64(steps)).put(1, one(w.closes)).put(1, int64(w.full)).put(7, w.number)
	numbers = appendNumber(appendNumber(numbers, w.turn, 6), first, 6)
	numbers = numbers.put(4, min(int64(l.Buffer), 1<<32-2)).put(5, hold).put(7, min(l.MaxMemory, maxMemory)).
		put(7, elsewhere.bytes).put(7, max(0, l.TopicKeep.Bytes)).put(5, max(0, ms(l.TopicKeep.TTL))).put(7, elsewhere.kept)
	return scriptCall{
		keys: []string{b.keys.topic("T", scope, w.topic), b.keys.counters(scope), b.keys.memory(scope)},
		args: []string{b.keys.pushPrefix(scope), b.node, w.topic, rueidis.BinaryString(numbers), message, b.prefix},
	}
}

// A walkResult is a reply to lua/walk.lua, or why there is none.
type walkResult struct {
	reply   rueidis.RedisResult
	durable error
}

// runAll runs lua/walk.lua with each of the calls.
func (w *walk) runAll(calls []scriptCall) []walkResult {
	b := w.broker
	results := make([]walkResult, len(calls))
	if !b.options.Durability.waits() {
		for i, reply := range b.runAll(b.background, walkScript, calls) {
			results[i].reply = reply
		}
		return results
	}
	var all sync.WaitGroup
	for i, call := range calls {
		all.Go(func() {
			defer guard.Recover(guard.Broker, func() { results[i].durable = errPanicked })
			ctx, cancel := context.WithTimeout(b.background, b.options.Timeout)
			defer cancel()
			results[i].reply, results[i].durable = b.runDurably(ctx, walkScript, call)
		})
	}
	all.Wait()
	return results
}

// A walkReply is what lua/walk.lua tells beside what became of the message.
type walkReply struct {
	code   byte
	value  int64
	done   bool // all members of the scope were visited
	empty  bool // the scope has no record of the topic
	others []int
}

// goesOn stands in a reply in place of a scope, before the end that another walk has not brought to all members.
const goesOn = 1<<16 - 1

// Codes of a walkReply.
const (
	walkVisited  = 1
	walkFenced   = 5
	walkNothing  = 10
	walkBusy     = 11
	walkClosed   = 12
	walkNoMemory = 13
)

// read takes a reply into the result.
func (w *walk) read(result walkResult) (r walkReply, err error) {
	const head, idSize, recordSize = 1 + 7 + 1 + 9*2, 16, 8
	b := w.broker
	s, err := result.reply.ToString()
	if err != nil {
		return r, b.failed(err, true)
	}
	if len(s) < head {
		return r, errData
	}
	r.code, r.value, r.done, r.empty = s[0], int64(number(s[1:8])), s[8] > 0, s[8] > 1 //nolint:gosec // 7 bytes
	var n [9]int
	for i := range n {
		n[i] = int(number(s[9+2*i : 11+2*i])) //nolint:gosec // 2 bytes
	}
	members, accepted, duplicates, replaced, appended, missed, full, held, deleted := n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]
	if s = s[head:]; len(s) < held*(6+idSize)+deleted*idSize {
		return r, errData
	}
	w.result.Members += members
	w.result.Accepted += accepted
	w.result.Full += full
	b.stats.accepted.Add(uint64(accepted - duplicates)) //nolint:gosec // not negative
	b.stats.duplicates.Add(uint64(duplicates))          //nolint:gosec // not negative
	b.stats.countMerged(replaced, appended)
	b.stats.skipped.Add(uint64(missed)) //nolint:gosec // not negative
	for ; held > 0; held-- {
		x, _ := toChannelID(s[6 : 6+idSize])
		w.hold(number(s[:6]), x)
		s = s[6+idSize:]
	}
	for ; deleted > 0; deleted-- {
		x, _ := toChannelID(s[:idSize])
		w.deletes = append(w.deletes, x)
		s = s[idSize:]
	}
	for ; len(s) >= 2+recordSize; s = s[2+recordSize:] {
		scope := int(number(s[:2])) //nolint:gosec // 2 bytes
		if scope == goesOn {
			w.message = s[2:]
			break
		}
		r.others = append(r.others, scope)
		w.records[scope] = s[2 : 2+recordSize]
	}
	if r.code == walkVisited && result.durable != nil {
		return r, result.durable
	}
	return r, nil
}

// hold registers a call that waits for room in a member.
func (w *walk) hold(number uint64, x channelID) {
	it := &item{x: x, ms: []string{w.message}, limits: &w.limits, number: number, begun: time.Now()}
	if w.closes {
		w.broker.waiters.addAlone(it)
		return
	}
	w.held = append(w.held, w.broker.waiters.add(it))
}

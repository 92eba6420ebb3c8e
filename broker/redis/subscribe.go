package redis

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// How a read begins: see lua/subscribe.lua.
const (
	modePlain    = 0
	modeTakeOver = 1
	modeResume   = 2
)

// subscriptions are those of this node, by fence.
type subscriptions struct {
	mu   sync.RWMutex
	last uint32 // fence
	all  map[uint32]*subscription
}

// add registers a subscription under a new fence, before Redis knows of it. The subscription's lock is held, or nobody else has
// it yet.
func (l *subscriptions) add(s *subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[s.fence] == s {
		delete(l.all, s.fence)
	}
	l.last++
	s.fence = l.last
	l.all[s.fence] = s
}

// remove forgets a subscription. Only the subscription's own calls change its fence, so nobody does so meanwhile.
func (l *subscriptions) remove(s *subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[s.fence] == s {
		delete(l.all, s.fence)
	}
}

func (l *subscriptions) get(fence uint32) *subscription {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.all[fence]
}

// exclude takes channels to which there is a subscription out of a set. It looks at all subscriptions, so it is for rare cases.
func (l *subscriptions) exclude(channels map[channelID]uint32) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.all {
		delete(channels, s.x)
	}
}

func (l *subscriptions) count() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.all)
}

func (l *subscriptions) snapshot() []*subscription {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make([]*subscription, 0, len(l.all))
	for _, s := range l.all {
		all = append(all, s)
	}
	return all
}

// Subscribe implements [broker.Broker].
func (b *Broker) Subscribe(ctx context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	x, err := b.consumerID(ctx, consumer)
	if err != nil {
		return nil, err
	}
	s := &subscription{
		broker: b, x: x, limits: o.Limits, again: o.Redeliver, ready: make(chan struct{}, 1), done: make(chan struct{}), starting: true,
	}
	s.report.busy = true
	b.subs.add(s)
	fence := s.fence
	if b.isClosed() { // Close may have missed it
		b.subs.remove(s)
		return nil, broker.ErrClosed
	}
	mode := modePlain
	if o.TakeOver {
		mode = modeTakeOver
	}
	cursor, known := "", true
	if o.After != "" {
		var id broker.EventID
		if id, known = broker.ParseEventID(o.After); known {
			cursor = string(id[:])
		} else {
			cursor = string(make([]byte, len(id))) // which no event has
		}
	}
	values, err := b.subscribe(s, opening{fence: fence, mode: mode, cursor: cursor, follow: o.Follow})
	if err != nil {
		b.subs.remove(s)
		if errors.Is(err, broker.ErrUnavailable) { // Redis may have let it in
			b.disown(map[channelID]uint32{x: fence})
		}
		return nil, err
	}
	defer b.drainNew(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resume = resumes[min(2, max(0, integer(values, 4)))]
	if o.After != "" && (!known || cursor == string(make([]byte, len(cursor)))) {
		s.resume = broker.ResumeGap
	}
	flags := byte(integer(values, 3)) //nolint:gosec // one byte
	s.acked = flags&flagAcks != 0
	s.acks = o.Acknowledged || o.MayAcknowledge && s.acked
	s.follows = flags&flagFollows != 0
	s.begin(values)
	if integer(values, 1) > 0 {
		s.wake()
	}
	return s, nil
}

var resumes = [...]broker.Resume{broker.ResumeNone, broker.ResumeComplete, broker.ResumeGap}

// An opening is how a read begins, or goes on after a fault.
type opening struct {
	fence         uint32 // the subscription's; another resync may have given it another one meanwhile
	mode          int
	was           uint32 // the fence by which Redis knows the reader that resumes
	cursor, taken string // ids of 16 bytes, or empty
	follow        bool
}

// subscribe makes a subscription the channel's reader, and returns the values of lua/subscribe.lua.
func (b *Broker) subscribe(s *subscription, o opening) ([]rueidis.RedisMessage, error) {
	l := &s.limits
	keys, prefix := b.keys.channelKeys(s.x)
	elsewhere := b.ledger.elsewhere(b.keys.scopeOf(s.x.partition()))
	numbers := packer{}.put(1, int64(o.mode)).put(3, int64(aheadOf(l))).put(5, ms(l.TTL)).put(5, int64(l.MaxReaders)).
		put(5, elsewhere.readers).put(3, int64(aheadOf(l))).put(5, maxFetch).put(1, one(o.follow)).put(7, elsewhere.bytes).put(1, one(s.again)).put(4, int64(o.was))
	reply := b.run(b.background, subscribeScript, keys,
		prefix, b.node, strconv.FormatUint(uint64(o.fence), 10), rueidis.BinaryString(numbers), o.cursor, o.taken)
	if code, err := reply.AsInt64(); err == nil {
		switch code {
		case -2:
			return nil, b.gone()
		case -3:
			return nil, broker.ErrReaderLimit
		}
	}
	values, err := reply.ToArray()
	switch {
	case err != nil:
		return nil, b.failed(err, false)
	case integer(values, 0) == -1:
		node, _ := values[1].ToString()
		present := uint32(integer(values, 2)) //nolint:gosec // a fence
		switch {
		case node != b.node || b.subs.get(present) != nil:
			return nil, broker.ErrBusy
		case o.mode == modeResume: // an earlier try whose reply did not come, or Redis has gone back to an earlier time
			o.was = present
		default: // a read of this node whose end Redis does not know of
			if err := b.endAll(map[channelID]uint32{s.x: present}); err != nil {
				return nil, b.failed(err, false)
			}
		}
		return b.subscribe(s, o)
	case len(values) < subscribeValues:
		return nil, errData
	}
	b.stats.settled.Add(uint64(integer(values, 8))) //nolint:gosec // not negative
	if integer(values, 7) == 1 {
		b.memoryFreed()
	}
	return values, nil
}

// subscribeValues is how many values come before the messages.
const subscribeValues = 10

// begin takes what Redis has of the channel. The lock is held.
func (s *subscription) begin(values []rueidis.RedisMessage) {
	s.starting = false
	s.head = uint64(integer(values, 0)) //nolint:gosec // not negative
	id, _ := values[5].ToString()
	copy(s.settledID[:], id)
	ids, _ := values[6].ToString()
	const size = messageHead + 4
	for ; len(ids) >= size; ids = ids[size:] {
		e := entry{keyed: ids[0]&1 == 1, size: uint32(number(ids[messageHead:size]))} //nolint:gosec // 4 bytes
		copy(e.id[:], ids[1:])
		s.held = append(s.held, e)
	}
	s.inFlight = len(s.held)
	s.unconfirmed = int(integer(values, 9))
	s.report.taken, s.report.settled = s.takenTo(), s.head
	s.addFetched(s.head, values[subscribeValues:])
	s.report.pushed = 0
	s.report.more = s.report.more || s.report.stale || integer(values, 1) > int64(s.known)
	s.report.busy, s.report.stale = false, false
	if s.endsWith != nil {
		s.finish(s.endsWith)
	}
	s.changed()
}

// resyncDelay is how long a subscription waits before it tries again to resync.
const resyncDelay = time.Second

// resync makes sure that Redis and this subscription agree, after something that Redis said may have been lost, or Redis itself
// has lost something. It goes by event ids, never by positions: after a failover these may have gone back. It tries until it
// succeeds or the subscription is over.
func (s *subscription) resync() {
	s.resyncAfter(s.tryResync())
}

// resyncAfter goes on with a resync after the first try.
func (s *subscription) resyncAfter(done bool) {
	defer s.endAfterResync()
	for !done {
		select {
		case <-time.After(resyncDelay/2 + rand.N(resyncDelay)): //nolint:gosec // no secret
		case <-s.broker.closing:
			return
		}
		done = s.tryResync()
	}
}

// tryResync tries it once. It reports false if there must be another try.
func (s *subscription) tryResync() (done bool) {
	b := s.broker
	s.mu.Lock()
	if s.over || s.closes {
		s.mu.Unlock()
		return true
	}
	o := opening{mode: modeResume, was: s.fence, follow: s.follows}
	b.subs.add(s)
	o.fence = s.fence
	s.starting, s.endsWith, s.report.busy, s.report.more, s.report.early = true, nil, true, false, nil
	if s.settledID != (broker.EventID{}) {
		o.cursor = string(s.settledID[:])
	}
	if s.next > 0 {
		o.taken = string(s.held[s.next-1].id[:])
	}
	s.mu.Unlock()
	b.store.resyncs.Add(1)
	values, err := b.subscribe(s, o)
	return s.resynced(o.fence, values, err)
}

// settleAgain settles what was settled while a resync was on its way. The lock is held.
func (s *subscription) settleAgain(id broker.EventID) {
	for i := range s.held {
		if s.held[i].id == id && id != (broker.EventID{}) {
			s.next, s.inFlight = max(s.next, i+1), max(s.inFlight, i+1)
			s.settle(i + 1)
			return
		}
	}
}

// resynced takes the reply to a resync. It reports false if there must be another.
func (s *subscription) resynced(fence uint32, values []rueidis.RedisMessage, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over || fence != s.fence:
		return true
	case err == broker.ErrBusy: //nolint:errorlint // subscribe returns it as it is
		s.finish(broker.ErrTakenOver)
		return true
	case err == broker.ErrNotFound || err == broker.ErrClosed: //nolint:errorlint // subscribe returns them as they are
		s.finish(err)
		return true
	case err != nil:
		s.broker.warn(&s.broker.warnings.reads, "redis: reads cannot go on, trying again", "error", err)
		return false
	}
	taken, settledID := make(map[broker.EventID]bool, s.next), s.settledID
	var arrived broker.EventID
	for i := range s.next {
		if taken[s.held[i].id] = true; i < s.arrived {
			arrived = s.held[i].id
		}
	}
	s.addAhead(-s.ahead)
	s.held, s.known, s.next, s.arrived = nil, 0, 0, 0
	s.report.bytes, s.report.keys = 0, nil // the script has counted what the cursor shows
	s.begin(values)
	s.settledID = cmp.Or(settledID, s.settledID)
	for i := range s.held { // what comes before a message that was taken was taken too
		if taken[s.held[i].id] {
			s.next = i + 1
		}
		if s.held[i].id == arrived {
			s.arrived = i + 1
		}
	}
	for i := range s.next {
		if e := &s.held[i]; e.m != nil {
			s.addAhead(-int64(e.size))
			e.m = nil
		}
	}
	s.known, s.inFlight = max(s.known, s.next), max(s.inFlight, s.next)
	s.settleAgain(settledID)
	s.wake()
	s.changed()
	return true
}

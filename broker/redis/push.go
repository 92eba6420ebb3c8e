package redis

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A listener has one Pub/Sub connection to a server. On it come the messages for readers of this node, and what became of calls
// that wait for room.
type listener struct {
	broker  *Broker
	address string           // in a cluster, of its server
	seen    atomic.Int64     // when something came last, by the clock of package clock
	pushed  [2]time.Duration // when this node has pushed the last two heartbeats to itself, by the same clock; of its heartbeat
	broken  chan struct{}    // receives a value when heartbeats do not come
	changed chan struct{}    // receives a value when it should listen for other scopes
	ready   chan struct{}    // closed when it listens for the first time
	stopped chan struct{}    // closed when its server has no scopes any more

	mu       sync.Mutex
	scopes   []int        // that it should listen for
	attached map[int]bool // those for which it does
}

func (b *Broker) newListener(address string) *listener {
	return &listener{
		broker: b, address: address, attached: map[int]bool{}, broken: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		ready: make(chan struct{}), stopped: make(chan struct{}),
	}
}

func (l *listener) isStopped() bool {
	select {
	case <-l.stopped:
		return true
	default:
		return l.broker.isClosed()
	}
}

// run listens until the Broker closes, or the listener is stopped. After each interruption readers resync, since pushes may have
// been lost.
func (l *listener) run() {
	b := l.broker
	defer b.setHealth(l, nil)
	for first := true; !l.isStopped(); first = false {
		if !first {
			b.store.reconnects.Add(1)
			select {
			case <-time.After(listenDelay/2 + rand.N(listenDelay)): //nolint:gosec // no secret
			case <-l.stopped:
				return
			case <-b.closing:
				return
			}
		}
		err := l.listen()
		if !l.isStopped() {
			if b.setHealth(l, err) {
				b.log.Warn("redis: the connection for pushed messages is lost, connecting again", "address", l.where(), "error", err)
			}
			b.beatSoon()
		}
	}
}

func (l *listener) where() string { return cmp.Or(l.address, l.broker.where()) }

// errStale is why a connection is given up on which heartbeats do not come.
var errStale = errors.New("redis: what this node has pushed to itself did not come")

// listenDelay is how long a listener waits before it connects again.
const listenDelay = 500 * time.Millisecond

// listen listens until the connection is lost.
func (l *listener) listen() (err error) {
	defer guard.Recover(guard.Broker, func() { err = errPanic })
	b := l.broker
	server, err := b.server(l.address)
	if err != nil {
		return err
	}
	c, release := server.Dedicate()
	defer release()
	defer c.Close()
	defer l.detachAll() // so no heartbeat is missed that nobody could hear
	lost := c.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { l.receive(m.Message) },
		OnSubscription: func(s rueidis.PubSubSubscription) {
			if s.Kind == "sunsubscribe" { // its slot has moved
				l.detach(s.Channel)
			}
		},
	})
	select { // what was found out of the connection before
	case <-l.broken:
	default:
	}
	for {
		if err := l.attach(c); err != nil {
			return err
		}
		select {
		case err := <-lost:
			return err
		case <-l.broken:
			return errStale
		case <-l.changed:
		case <-l.stopped:
			return nil
		case <-b.background.Done():
			return nil
		}
	}
}

// attach begins to listen for scopes for which the listener should and does not. Their readers resync.
func (l *listener) attach(c rueidis.DedicatedClient) error {
	b := l.broker
	var scopes []int
	var commands []rueidis.Completed
	l.mu.Lock()
	for _, scope := range l.scopes {
		if !l.attached[scope] {
			scopes = append(scopes, scope)
			// The channels of one command must have one slot.
			commands = append(commands, c.B().Ssubscribe().Channel(b.keys.pushPrefix(scope)+b.node).Build())
		}
	}
	l.mu.Unlock()
	if len(scopes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.background, b.options.Timeout)
	defer cancel()
	l.seen.Store(int64(clock.Now()))
	fresh := map[int]bool{}
	var refused error
	for i, reply := range c.DoMulti(ctx, commands...) {
		err := reply.Error()
		if _, ok := rueidis.IsRedisErr(err); ok && l.address != "" {
			refused = err // its slot moves
			continue
		} else if err != nil {
			return err
		}
		fresh[scopes[i]] = true
	}
	l.mu.Lock()
	for scope := range fresh {
		l.attached[scope] = true
	}
	l.mu.Unlock()
	b.setHealth(l, nil)
	again := b.isStarted()
	if refused != nil {
		b.log.Warn("redis: the server does not push for some channels, trying again", "address", l.address, "error", refused)
	} else {
		closeOnce(l.ready)
	}
	if again { // before, there are no readers
		b.resyncSoon(fresh)
		b.beatSoon()
	}
	return nil
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// detach notes that the server has ended a subscription.
func (l *listener) detach(channel string) {
	defer guard.Recover(guard.Broker, l.giveUp)
	b := l.broker
	l.mu.Lock()
	for scope := range l.attached {
		if b.keys.pushPrefix(scope)+b.node == channel {
			delete(l.attached, scope)
		}
	}
	l.mu.Unlock()
	b.beatSoon()
}

func (l *listener) detachAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.attached)
}

// giveUp makes the listener connect again.
func (l *listener) giveUp() {
	select {
	case l.broken <- struct{}{}:
	default:
	}
}

// receive handles what was pushed: frames as lua/state.lua makes them.
func (l *listener) receive(frames string) {
	defer guard.Recover(guard.Broker, l.giveUp)
	l.seen.Store(int64(clock.Now())) // whatever comes shows that the connection is well
	const head = 5
	var strangers map[channelID]uint32
	for len(frames) >= head {
		kind, size := frames[0], int(number(frames[1:head])) //nolint:gosec // 4 bytes
		if frames = frames[head:]; len(frames) < size {
			break
		}
		if x, fence, ok := l.stranger(kind, frames[:size]); !ok {
			l.handle(kind, frames[:size])
		} else if strangers == nil {
			strangers = map[channelID]uint32{x: fence}
		} else {
			strangers[x] = fence
		}
		frames = frames[size:]
	}
	if strangers != nil {
		l.broker.disown(strangers)
	}
}

// stranger reports whether a frame asks for a reader that this node does not have, and of which channel.
func (l *listener) stranger(kind byte, data string) (x channelID, fence uint32, ok bool) {
	if kind != 'p' || len(data) < fenceSize {
		return x, 0, false
	}
	fence = uint32(number(data[:fenceSize])) //nolint:gosec // 4 bytes
	x, ok = toChannelID(data[fenceSize:])
	return x, fence, ok && l.broker.subs.get(fence) == nil
}

// Sizes of the parts of frames.
const (
	fenceSize   = 4
	messageSize = fenceSize + 6 // and position
	noteSize    = 6 + 1 + 2 + 2 // number, status, accepted, duplicates
)

// readNote reads the note of a frame. A server of an earlier version does not say what was merged.
func readNote(data string) note {
	n := note{status: data[6], accepted: int(number(data[7:9])), duplicates: int(number(data[9:11]))} //nolint:gosec // 2 bytes
	if len(data) >= noteSize+4 {
		n.replaced, n.appended = int(number(data[11:13])), int(number(data[13:15])) //nolint:gosec // 2 bytes
	}
	return n
}

func (l *listener) handle(kind byte, data string) {
	b := l.broker
	switch kind {
	case 'h':
		return
	case 'a':
		if len(data) >= noteSize {
			b.waiters.tell(number(data[:6]), readNote(data))
		}
		return
	case 'b':
		b.receiveShared(data)
		return
	}
	if len(data) < fenceSize {
		return
	}
	fence := uint32(number(data[:fenceSize])) //nolint:gosec // 4 bytes
	s := b.subs.get(fence)
	if s == nil {
		return // it has ended meanwhile
	}
	switch kind {
	case 'm':
		if len(data) > messageSize {
			m, err := decodeMessage(data[messageSize:])
			s.push(fence, number(data[fenceSize:messageSize]), m, err)
		}
	case 'w':
		s.askFetch(fence)
	case 'r':
		s.askReport(fence, data[fenceSize:])
	case 't':
		s.endBy(fence, broker.ErrTakenOver)
	case 'f': // other nodes took this one for gone
		guard.Go(guard.Broker, s.resync, s.panicked)
	case 'd':
		s.endBy(fence, b.gone())
	}
}

// receiveShared handles messages for several readers: how many readers and messages, for each reader the fence and the position of
// the first message, and for each message its size and the message.
func (b *Broker) receiveShared(data string) {
	const counts, length = 2 + 2, 4
	if len(data) < counts {
		return
	}
	count := number(data[2:counts])
	size := int(number(data[:2])) * messageSize //nolint:gosec // 2 bytes
	if data = data[counts:]; len(data) < size {
		return
	}
	places, data := data[:size], data[size:]
	for i := uint64(0); i < count && len(data) >= length; i++ {
		end := length + int(number(data[:length])) //nolint:gosec // 4 bytes
		if len(data) < end {
			return
		}
		m, err := decodeMessage(data[length:end])
		data = data[end:]
		for ps := places; len(ps) > 0; ps = ps[messageSize:] {
			fence := uint32(number(ps[:fenceSize])) //nolint:gosec // 4 bytes
			if s := b.subs.get(fence); s != nil {
				s.push(fence, number(ps[fenceSize:messageSize])+i, m, err)
			}
		}
	}
}

// endBy ends the subscription if the fence is still its own.
func (s *subscription) endBy(fence uint32, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fence == s.fence && !s.starting {
		s.finish(reason)
	} else if fence == s.fence {
		s.endsWith = reason
	}
}

package delivery

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A parking is how a read that has no handler any more waits without a goroutine, which would be most of what an idle
// reader costs (docs/performance.md). Whatever may come next starts one, which goes on with the read.
//
// No wake-up is lost: park first says that it is about to wait, then looks at all that may have come before, and waits only
// if nobody has called wake meanwhile. Each of those that call it makes what it tells of visible before. A wake-up too many
// does no harm, since it is no more than a look. So what was registered for one wait need not be taken back before the next.
type parking struct {
	resume func() // goes on with the read, and is called in a goroutine of its own; nil if the read cannot be parked
	sub    broker.Notifier
	wake   func()        // is feed.wake
	check  time.Duration // how often it is looked whether the read is idle; 0 if it always is, or cannot be parked
	state  atomic.Int32
	timer  *time.Timer // calls wake when something is due
}

// States of a read.
const (
	running int32 = iota // a goroutine has it
	parks                // it is about to wait; wake makes it running
	parked               // whoever makes it running goes on with it
)

// MayPark makes a read one that can be parked, if its subscription allows that. The transport must call wake when its
// client is gone.
func (f *Delivery) MayPark(resume func()) {
	if sub, ok := f.sub.(broker.Notifier); ok {
		p := &f.parking // wake may be called already
		p.resume, p.sub, p.wake, p.check = resume, sub, f.wake, idleCheck
	}
}

// wake lets a read go on that is parked. It must be called in a goroutine of its own.
func (f *Delivery) wake() {
	if p := &f.parking; !p.state.CompareAndSwap(parks, running) && p.state.CompareAndSwap(parked, running) {
		p.timer.Stop()
		p.resume()
	}
}

// Park lets a read wait without a goroutine, and reports whether it does. If so, somebody else may have it already.
func (f *Delivery) Park() bool {
	p := &f.parking
	if p.resume == nil || !f.checkAt.IsZero() {
		return false
	}
	wait := time.Until(f.nextDue()) // only the goroutine that has the read changes that
	if wait <= 0 {
		return false
	}
	f.ms = nil // after a burst it is large
	p.state.Store(parks)
	if !f.waits() || !p.sub.Notify(p.wake) {
		p.state.Store(running)
		return false
	}
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.wake)
	} else {
		p.timer.Reset(wait)
	}
	if p.state.CompareAndSwap(parks, parked) {
		return true
	}
	p.timer.Stop()
	return false
}

// waits reports whether none of what ends the read has come, apart from the subscription's end and the time.
func (f *Delivery) waits() bool {
	select {
	case <-f.transport.Gone():
		return false
	case <-f.unloaded:
		return false
	default:
		return true
	}
}

// idleCheck is how often a read is looked at to see whether it is idle. One that had a message since the look before the
// last keeps its goroutine: to park and wake for each costs twice as much as to pass it on (BenchmarkWake).
const idleCheck = 2 * time.Second

// An idleness tells when a read is idle. It costs nothing for each message.
type idleness struct {
	feed *Delivery
	sent int       // as it was at the last look
	idle bool      // nothing had been sent then since the look before, or there was none
	next time.Time // when to look again; zero: never
}

// newIdleness begins with an idle read: it may have been woken for something else than a message.
func (f *Delivery) newIdleness() idleness {
	i := idleness{feed: f, sent: f.sent, idle: true}
	if f.parking.check > 0 {
		i.next = time.Now().Add(f.parking.check)
	}
	return i
}

func (i *idleness) now() bool {
	return i.idle && i.feed.sent == i.sent || i.feed.parking.check == 0
}

func (i *idleness) check(now time.Time) {
	if !i.next.IsZero() && !now.Before(i.next) {
		i.idle, i.sent, i.next = i.feed.sent == i.sent, i.feed.sent, now.Add(i.feed.parking.check)
	}
}

// DetachedStreams is the detached streams of a configuration, which end soon when it is replaced.
type DetachedStreams struct {
	mu      sync.Mutex
	streams map[*Delivery]struct{}
}

// Add adds a delivery, if it is to end when its configuration is replaced.
func (m *DetachedStreams) Add(f *Delivery) {
	if f.unloaded == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams == nil {
		m.streams = map[*Delivery]struct{}{}
	}
	m.streams[f] = struct{}{}
}

func (m *DetachedStreams) Remove(f *Delivery) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, f)
}

// Wake lets all look at what has come to pass, a few at a time: each has a goroutine for a moment.
func (m *DetachedStreams) Wake() {
	m.mu.Lock()
	feeds := make([]*Delivery, 0, len(m.streams))
	for f := range m.streams {
		feeds = append(feeds, f)
	}
	m.mu.Unlock()
	for i, f := range feeds {
		go f.wake()
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
}

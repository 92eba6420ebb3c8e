package delivery

import (
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A parking lets a read without a handler wait without a goroutine. The goroutine would be most of what an idle reader
// costs (docs/performance.md). Whatever happens next to the read calls wake, in a new goroutine that continues the read.
//
// No wake-up is lost. Park first announces that it is about to wait. Then it checks everything that may have happened
// before. It waits only if nobody has called wake meanwhile. Everything that calls wake makes its reason visible first. A
// wake-up too many does no harm, since the read only checks once more. So nobody needs to cancel what was registered for
// one wait before the next wait.
type parking struct {
	resume   func() // continues the read, in the goroutine that calls it; nil if the read cannot be parked
	sub      broker.Notifier
	wake     func()        // the method wake of the delivery
	interval time.Duration // how often to check whether the read is idle; 0 if it always counts as idle or cannot be parked
	state    atomic.Int32
	timer    *time.Timer // calls wake when something is due
}

// States of a read.
const (
	running int32 = iota // a goroutine has the read
	parks                // the read is about to wait; wake makes it running
	parked               // nobody has the read; who makes it running continues it
)

// MayPark allows the delivery to park the read, if the subscription is a [broker.Notifier]. When something happens to a
// parked read, resume is called in a new goroutine. It must call [Delivery.Deliver], which may panic. Call MayPark after
// [Delivery.Detach], which lets the transport wake the read when its client is gone.
func (d *Delivery) MayPark(resume func()) {
	if sub, ok := d.sub.(broker.Notifier); ok {
		p := &d.parking // fields are set one by one: wake may be running already, and reads the state
		p.resume, p.sub, p.wake, p.interval = resume, sub, d.wake, idleInterval
	}
}

// wake continues the read if it is parked, and returns when the read is parked again or has ended. Any goroutine may call
// it at any time. Since it may last, call it in a goroutine of its own. It does not panic.
func (d *Delivery) wake() {
	defer guard.Recover(guard.Read)
	if p := &d.parking; !p.state.CompareAndSwap(parks, running) && p.state.CompareAndSwap(parked, running) {
		p.timer.Stop()
		p.resume()
	}
}

// Park lets the read wait without a goroutine, and reports whether it does. If it does, another goroutine may have the
// read already, so the caller must not use d any more. Park returns false if the read cannot be parked or has something to
// do.
func (d *Delivery) Park() bool {
	p := &d.parking
	if p.resume == nil || !d.checkAt.IsZero() {
		return false
	}
	wait := time.Until(d.nextDue()) // only the goroutine that has the read changes what this depends on
	if wait <= 0 {
		return false
	}
	d.ms = nil // after a burst it is large
	p.state.Store(parks)
	if d.mustEnd() || !p.sub.Notify(p.wake) {
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

// mustEnd reports whether the client is gone or the configuration was replaced. The end of the subscription and that of
// the read's time are checked elsewhere.
func (d *Delivery) mustEnd() bool {
	select {
	case <-d.transport.Gone():
		return true
	case <-d.unloaded:
		return true
	default:
		return false
	}
}

// idleInterval is how often a read is checked to see whether it is idle. If the read sent a message since the check before
// the last one, it keeps its goroutine: to park and wake it for each message costs twice as much as to send the message
// (BenchmarkWake).
const idleInterval = 2 * time.Second

// An idleness says when a read is idle. It costs nothing for each message.
type idleness struct {
	delivery *Delivery
	sent     int       // how many messages were sent at the last check
	idle     bool      // nothing was sent between the last two checks, or there were none
	next     time.Time // when the next check is due; zero: never
}

// newIdleness begins with an idle read: something other than a message may have woken it.
func (d *Delivery) newIdleness() idleness {
	i := idleness{delivery: d, sent: d.sent, idle: true}
	if d.parking.interval > 0 {
		i.next = time.Now().Add(d.parking.interval)
	}
	return i
}

// isIdle reports whether nothing was sent since the check before the last one.
func (i *idleness) isIdle() bool {
	return i.idle && i.delivery.sent == i.sent || i.delivery.parking.interval == 0
}

// update checks the read if that is due.
func (i *idleness) update(now time.Time) {
	if !i.next.IsZero() && !now.Before(i.next) {
		i.idle, i.sent, i.next = i.delivery.sent == i.sent, i.delivery.sent, now.Add(i.delivery.parking.interval)
	}
}

package disk

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// When a write or a sync fails, nobody knows what of the last records is on the disk: after a failed fsync the system may
// have dropped them, and a second fsync would report success. So the log gives the head up. It refuses everything that
// adds to it, while channels go on to deliver what they hold. Then it writes all that lives into new segments, makes them
// durable, and removes the old ones. It tries that again and again until it succeeds. An attempt first sees whether the disk makes
// anything durable. If it fails later, when it has copied what lives, the next one comes later.
//
// A full disk is no such fault: what was written stays as it is.

// retryInterval is how often the log tries to overcome a fault or a full disk.
const retryInterval = 500 * time.Millisecond

// maxPause is how long the log waits, at most, when it could not begin anew. It waits twice as long after each attempt.
const maxPause = 8 * time.Second

// breakDown makes the log refuse what adds to it, until renew has succeeded. The lock is held.
func (l *log) breakDown(err error) {
	if l.fault != nil && l.renewing {
		l.renewing = false // it has failed as well
	}
	if l.fault == nil {
		l.fault = err
		l.setHealth(err)
	}
	commit, holders := l.commit, l.holders
	l.commit, l.holders = nil, nil
	finish(commit, holders, err)
	signal(l.wake)
}

// setHealth notes why the log takes no writes, or nil.
func (l *log) setHealth(err error) { l.health.Store(&err) }

// reportHealth reports a change of the health since the last call. Only the maintainer calls it.
func (l *log) reportHealth() {
	before, now := l.reported, *l.health.Load()
	l.reported = now
	switch {
	case before == nil && now != nil:
		l.report(event{problem: fmt.Errorf("the journal takes no writes: %w", now)})
	case before != nil && now == nil:
		l.tried = false
		l.report(event{recovered: true})
	}
}

// reportAttempt notes why the log could not begin anew, and reports it if it is the first time since the log broke down. Only the
// maintainer calls it.
func (l *log) reportAttempt(err error) {
	l.mu.Lock()
	err = fmt.Errorf("%w; to begin anew failed: %w", l.fault, err)
	l.setHealth(err)
	l.mu.Unlock()
	if !l.tried {
		l.tried = true
		l.report(event{problem: err})
	}
}

// Health returns why the log takes no writes, or nil.
func (l *log) Health() error { return cmp.Or(*l.health.Load(), l.stallsNow()) }

// beginAnew calls renew, unless it is too early for that, and reports whether it has succeeded. Only the maintainer calls it.
func (l *log) beginAnew() bool {
	if time.Now().Before(l.again) {
		return false
	}
	copied, err := l.renew()
	if err == nil {
		l.pause = 0
		return true
	}
	if copied {
		l.pause = min(max(2*l.pause, retryInterval), maxPause)
		l.again = time.Now().Add(l.pause)
	}
	if !l.isHalted() {
		l.reportAttempt(err)
	}
	return false
}

// renew writes all that lives into new segments and removes the old ones. If it fails, the old ones are all that counts. It reports
// whether it has begun to write.
func (l *log) renew() (copied bool, err error) {
	first, err := l.giveUp()
	if err != nil {
		return false, err
	}
	if err = l.probe(); err == nil {
		copied, err = true, l.copyAgain()
	}
	if err != nil {
		l.syncing.Lock()
		defer l.syncing.Unlock()
		l.locked(func() { l.renewing = false })
		_ = l.dropAttempt() // or else the next attempt does
		return copied, err
	}
	// Now the new segments are all that counts, even if the log fails again.
	for id := range l.engine.IDs() {
		l.engine.Look(id, func(c journal.Locked) { c.AllDurable() })
	}
	err = l.renewed()
	_ = l.removeBefore(first) // what stays will be compacted
	return true, err
}

// probe makes the beginning of a new segment durable, which costs little.
func (l *log) probe() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	var head *segment
	l.locked(func() { head = l.head })
	return l.watched("begin anew", func() {}, head.file.sync)
}

// copyAgain writes all that lives, and what is owed, and makes it durable.
func (l *log) copyAgain() (err error) {
	for id := range l.engine.IDs() {
		l.engine.Look(id, func(c journal.Locked) { err = l.copyAllOf(c) })
		if err == nil && l.isHalted() {
			err = errClosed
		}
		if err != nil {
			return err
		}
	}
	if l.isHalted() { // the channels that were missing are not gone
		return errClosed
	}
	if err := l.payDebts(); err != nil {
		return err
	}
	return l.sync(true)
}

// giveUp replaces the head by a new segment, and returns its place in the sequence.
func (l *log) giveUp() (first uint64, err error) {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	if err := l.folder.prepare(); err != nil {
		return 0, err
	}
	if err := l.dropNext(); err != nil {
		return 0, err
	}
	if err := l.dropAttempt(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nextErr = nil
	if l.prepareNext(false); l.next == nil {
		return 0, cmp.Or(l.nextErr, errClosed)
	}
	old := l.head
	l.renewing = true
	if err := l.advance(old.end, true); err != nil {
		l.renewing = false
		return 0, err
	}
	l.givenUp = old
	l.closeUnsynced()
	return l.head.sequence, nil
}

// dropNext removes the segment that was prepared, if there is one. Nobody writes meanwhile, because of the fault or because the log is
// closed.
func (l *log) dropNext() error {
	l.mu.Lock()
	for l.preparing && !l.isHalted() {
		l.prepared.Wait()
	}
	next, preparing := l.next, l.preparing
	l.mu.Unlock()
	switch {
	case preparing:
		return errClosed
	case next == nil:
		return nil
	}
	if err := l.folder.remove(segmentName(next.sequence)); err != nil && !isMissing(err) {
		return err // or else there could be no other one with its name
	}
	_ = next.file.close()
	l.locked(func() { l.next = nil })
	return nil
}

// dropAttempt removes the segments that an attempt to begin anew has written, if it has failed. Otherwise each attempt would take
// more room. The newest one goes first, so none is ever missing between others. Nobody writes meanwhile.
func (l *log) dropAttempt() error {
	if l.givenUp == nil {
		return nil
	}
	l.closeUnsynced()
	_ = l.head.file.close()
	for sequence := l.head.sequence; sequence > l.givenUp.sequence; sequence-- {
		if err := l.folder.remove(segmentName(sequence)); err != nil && !isMissing(err) {
			return err
		}
		if err := l.folder.sync(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed = slices.DeleteFunc(l.sealed, func(s sealed) bool { return s.sequence >= l.givenUp.sequence })
	l.head, l.givenUp = l.givenUp, nil
	return nil
}

// closeUnsynced closes the segments that are not durable, and never will be. Nobody writes or syncs meanwhile.
func (l *log) closeUnsynced() {
	for _, s := range l.unsynced {
		_ = s.file.close()
	}
	l.unsynced = nil
}

// copyAllOf writes all of a channel or a topic.
func (l *log) copyAllOf(c journal.Locked) (err error) {
	id, heads := headsOf(c, false)
	for _, head := range heads {
		l.locked(func() { _, err = l.write(head, nil, renewal) })
		if err != nil {
			return err
		}
	}
	for position, m := range c.Messages() {
		l.locked(func() { err = l.put(id, position, m, nil, renewal) })
		if err != nil {
			return err
		}
	}
	return nil
}

// renewed ends the attempt of renew, in which all was written again.
func (l *log) renewed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.givenUp = nil
	if !l.renewing {
		return l.fault // it has failed again meanwhile
	}
	l.renewing, l.fault = false, nil
	l.setHealth(nil)
	signal(l.dirty) // somebody may wait since
	return nil
}

// maintainer prepares segments, compacts, and overcomes faults.
func (l *log) maintainer() {
	defer l.stopped.Done()
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	for {
		l.outlast(l.maintain)
		wake := l.wake
		if l.isBroken() {
			wake = nil // it was tried just now
		}
		select {
		case <-wake:
		case <-ticker.C:
		case <-l.stop:
			return
		}
	}
}

func (l *log) maintain() {
	if err := l.checkFolder(); err != nil {
		l.mu.Lock()
		l.breakDown(fmt.Errorf("the journal's folder has changed: %w", err))
		l.mu.Unlock()
	}
	l.reportHealth()
	if l.isBroken() && !l.beginAnew() {
		return
	}
	l.compact()
	if l.prepareAhead() {
		_ = l.payDebts()
	}
	if l.Takes() == nil {
		l.retry()
	}
	l.locked(func() {
		switch {
		case l.fault != nil: // which is the health
		case l.full:
			l.setHealth(l.nextErr)
		default:
			l.setHealth(nil)
		}
	})
	l.reportHealth()
}

// prepareAhead prepares a segment if there is none. It reports whether there is one now, and channels have debts.
func (l *log) prepareAhead() (pay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.preparing { // a channel waits for that, or has waited in vain
		return false
	}
	l.nextErr = nil
	if l.prepareNext(true); l.next != nil {
		l.full = false
	}
	return l.next != nil && len(l.debts) > 0
}

// locked calls f with the lock held.
func (l *log) locked(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// isBroken reports whether the log has broken down.
func (l *log) isBroken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault != nil
}

// isHalted reports whether halt was called.
func (l *log) isHalted() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// checkFolder fails if the head is not in the folder any more.
func (l *log) checkFolder() error {
	l.mu.Lock()
	head, broken := l.head, l.fault != nil || l.closed
	l.mu.Unlock()
	if broken {
		return nil
	}
	err := l.folder.has(segmentName(head.sequence), head.file)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head != head || l.closed {
		return nil // it was sealed, and perhaps removed, meanwhile
	}
	return err
}

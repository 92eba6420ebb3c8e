package disk

import (
	"errors"
	"fmt"

	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// Compaction copies what still lives out of the oldest segment to the end, and removes that segment. All that lives is in
// memory, so there is no other snapshot. Most messages do not live long, so there is little to copy.

// How many bytes a channel or a topic without messages, and a membership, takes in a journal, more or less.
const (
	holderOverhead     = 200
	membershipOverhead = 32
)

// compact compacts until the sealed segments take at most twice what lives, and one segment. It visits each segment once at
// most. If that is not enough, what lives takes more than it seems to, since a message that several channels hold counts
// once. Then the next calls expect as much, until as much has been written as was copied: by then that may have changed.
func (l *log) compact() {
	var last uint64
	var copied int64
	for i := 0; !l.isHalted() && !l.keeps(); i++ {
		l.mu.Lock()
		if i == 0 {
			last = l.head.sequence
			if int64(last-l.measured.head)*int64(l.size) >= l.measured.copied { //nolint:gosec // far fewer segments
				l.scale = 1
			}
		}
		var used int64
		for _, s := range l.sealed {
			used += int64(s.size)
		}
		live := l.live()
		enough := used <= int64(2*l.scale*float64(live))+int64(l.size)
		if enough || l.fault != nil || l.closed || l.sealed[0].sequence >= last {
			if l.mu.Unlock(); i > 0 {
				l.scale = 1
				if !enough {
					l.scale = max(1, float64(copied)/float64(max(1, live)))
					l.measured.head, l.measured.copied = l.head.sequence, copied
				}
			}
			return
		}
		oldest := l.sealed[0]
		l.mu.Unlock()
		n, err := l.compactSegment(oldest)
		if err != nil {
			return // there is no room, or the log has broken down
		}
		copied += n
	}
}

// live returns about how many bytes a journal takes that has nothing but what lives.
func (l *log) live() int64 {
	bytes, holders, memberships := l.engine.Live()
	return bytes + int64(holders)*holderOverhead + int64(memberships)*membershipOverhead
}

// compactSegment copies what lives of a sealed segment, and removes it. It returns how many bytes it has copied.
func (l *log) compactSegment(s sealed) (int64, error) {
	data, closed, err := l.folder.open(segmentName(s.sequence))
	if err != nil {
		return 0, l.lost(s, err)
	}
	copies := copier{log: l, sequence: s.sequence, data: data, places: map[int]place{}, renewed: map[journal.ID]uint64{}, letGo: map[journal.ID]uint64{}}
	err = guardReads(func() error {
		end, err := readRecords(data, s.sequence, s.end, copies.copy)
		if err == nil && end != s.end && !errors.Is(err, errDamaged) {
			err = errDamaged
		}
		return err
	})
	_ = closed()
	switch {
	case copies.err != nil:
		return 0, copies.err
	case err != nil:
		return 0, l.lost(s, err)
	}
	if err := l.syncAll(); err != nil { // copies, and the end of what was not copied
		return 0, err
	}
	if l.isHalted() { // a channel of a Broker that is closed looks like one that is gone
		return 0, errClosed
	}
	return copies.copied, l.removeBefore(s.sequence + 1)
}

// lost makes the log begin anew because a sealed segment cannot be read any more. All that lives is in memory.
func (l *log) lost(s sealed, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err = fmt.Errorf("read %s again: %w", segmentName(s.sequence), err)
	l.breakDown(err)
	return err
}

// removeBefore removes the sealed segments before a place in the sequence. If one cannot be removed, it stays for the next
// attempt, and does no harm.
func (l *log) removeBefore(sequence uint64) error {
	for {
		l.mu.Lock()
		if len(l.sealed) == 0 || l.sealed[0].sequence >= sequence {
			l.mu.Unlock()
			return nil
		}
		oldest := l.sealed[0]
		l.mu.Unlock()
		if removed, err := l.removeSegment(oldest); !removed {
			return err
		}
	}
}

// removeSegment removes the oldest sealed segment, unless a backup is made. It reports whether it has.
func (l *log) removeSegment(oldest sealed) (removed bool, err error) {
	if !l.keeping.TryLock() {
		return false, nil
	}
	defer l.keeping.Unlock()
	if err := l.folder.remove(segmentName(oldest.sequence)); err != nil && !isMissing(err) {
		return false, err
	}
	if err := l.folder.sync(); err != nil { // or else a newer segment may vanish before an older one
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed = l.sealed[1:]
	return true, nil
}

// keeps reports whether no segment may be removed now, since a backup is made.
func (l *log) keeps() bool {
	if !l.keeping.TryLock() {
		return true
	}
	l.keeping.Unlock()
	return false
}

// A copier copies what lives of one segment.
type copier struct {
	log      *log
	sequence uint64
	data     []byte
	places   map[int]place         // by the offset of the original: where a message is now that several channels hold
	renewed  map[journal.ID]uint64 // of a channel, the position last written as it is now: see renew
	letGo    map[journal.ID]uint64 // of some channels: up to which position nothing is needed any more; it only grows
	copied   int64                 // bytes
	err      error

	// These are of the record that is looked at.
	offset  int
	payload []byte
	record  *record
}

// maxLetGo is of how many channels a copier knows what they have let go. Looking at a channel takes its lock from who writes to it.
const maxLetGo = 4096

// A place is where a record is.
type place struct {
	sequence uint64
	offset   int
}

// copy copies a record if it is needed. It stops the copier if it fails.
func (c *copier) copy(offset int, payload []byte, r *record) bool {
	c.offset, c.payload, c.record = offset, payload, r
	switch r.kind {
	case kindPut, kindPart, kindSame:
		if r.position <= c.letGo[r.id] {
			return true
		}
		c.log.engine.Look(r.id, c.lookMessage)
	case kindChannel, kindTopic, kindJoin, kindMark, kindMember:
		c.log.engine.Look(r.id, c.look)
	}
	return c.err == nil
}

// look copies a record that has no message, and whose channel or topic lives. It writes how things are now.
func (c *copier) look(live journal.Locked) {
	var payload []byte
	switch r := c.record; r.kind {
	case kindChannel:
		payload = appendChannel(nil, live.Snapshot())
	case kindTopic:
		payload = appendTopic(nil, live.Topic())
	case kindJoin:
		if is, endWaits := live.IsMember(r.joins); is {
			payload = appendJoin(nil, kindJoin, r.id, r.joins, endWaits)
		}
	case kindMark:
		if m := live.MarkAt(r.position); m != (journal.Mark{}) {
			payload = appendMark(nil, r.id, r.position, m)
		}
	case kindMember:
		payload = appendMember(nil, live.Member())
	}
	if payload != nil {
		c.log.locked(func() { _, c.err = c.write(payload, nil) })
	}
}

// lookMessage copies a record that has a message, and whose channel or topic lives.
func (c *copier) lookMessage(live journal.Locked) {
	l, r := c.log, c.record
	if letGo := live.LetGo(); r.position <= letGo {
		if len(c.letGo) == maxLetGo {
			clear(c.letGo)
		}
		c.letGo[r.id] = letGo
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch now := live.At(r.position); {
	case c.isOutdated(now):
		c.err = c.renew(now)
		return
	case r.kind == kindSame:
		c.err = c.copySame(r)
		return
	}
	var at int
	if at, c.err = c.write(c.payload, nil); r.kind == kindPut {
		c.places[c.offset] = place{l.head.sequence, at}
	}
}

// write writes a copy. The lock of the log is held.
func (c *copier) write(head, body []byte) (offset int, err error) {
	c.copied += int64(recordSize(len(head) + len(body)))
	return c.log.write(head, body, urgent)
}

// copySame copies a message that another channel had first. The lock of the log is held.
func (c *copier) copySame(r *record) error {
	l := c.log
	if err := l.makeRoom(recordSize(64), urgent); err != nil {
		return err
	}
	if at, ok := c.places[r.offset]; ok && at.sequence == l.head.sequence {
		_, err := c.write(appendSame(nil, r.id, r.position, at.offset), nil)
		return err
	}
	original, err := recordAt(c.data, c.sequence, r.offset)
	if err != nil {
		return err
	}
	f := original.flags
	f.kind |= sharedFlag
	at, err := c.write(appendPut(nil, r.id, r.position, f), original.line)
	c.places[r.offset] = place{l.head.sequence, at}
	return err
}

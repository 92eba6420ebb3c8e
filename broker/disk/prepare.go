package disk

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// prepareNext makes l.next, or sets nextErr. If somebody does that already, it waits. If ahead is true, nobody waits for the segment
// yet. The lock is held, but not while the disk works. After halt, prepareNext does not wait any more.
func (l *log) prepareNext(ahead bool) {
	if !l.preparing {
		if l.next != nil || l.nextErr != nil || l.closed {
			return
		}
		if l.nextErr = l.reachesMaxDisk(); l.nextErr != nil {
			return
		}
		sequence := l.head.sequence + 1
		l.preparing = true
		guard.Go(guard.Broker, func() { l.outlast(func() { l.prepare(sequence, ahead) }) })
	}
	for l.preparing && l.nextErr == nil && !l.isHalted() {
		l.prepared.Wait()
	}
}

// prepare makes the next segment.
func (l *log) prepare(sequence uint64, ahead bool) {
	var next *segment
	err := errPanicked // unless it returns
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.nextErr != nil { // the disk did not answer
			signal(l.wake)
		}
		l.preparing, l.next, l.nextErr = false, next, err
		l.prepared.Broadcast()
	}()
	err = l.watched("prepare a segment", l.prepareStalls, func() (err error) {
		if next, err = l.makeSegment(sequence); err == nil && ahead {
			l.warm(next)
		}
		return err
	})
}

// warm makes the first writes to a segment fast.
func (l *log) warm(s *segment) {
	s.file.populate()
	if l.Waits() {
		_ = s.file.sync() // or else the first write waits for all these zeros; if it fails, so will that
	}
}

// reachesMaxDisk returns an error if the settings allow no further segment. The lock is held.
func (l *log) reachesMaxDisk() error {
	if limit := l.settings.Load().MaxDisk; limit > 0 && l.diskUsed()+int64(l.size) > limit {
		return fmt.Errorf("it has reached max_disk, %d bytes", limit)
	}
	return nil
}

// makeSegment makes the file of a segment, and makes its name durable.
func (l *log) makeSegment(sequence uint64) (*segment, error) {
	f, err := l.folder.create(segmentName(sequence), l.size)
	if errors.Is(err, fs.ErrExist) && l.removeUnused(sequence) {
		f, err = l.folder.create(segmentName(sequence), l.size)
	}
	if err != nil {
		return nil, err
	}
	if err := l.folder.sync(); err != nil {
		_ = f.close()
		_ = l.folder.remove(segmentName(sequence))
		return nil, fmt.Errorf("make the name of a segment durable: %w", err)
	}
	return &segment{sequence: sequence, file: f, mem: f.bytes()}, nil
}

// removeUnused removes the file of a segment that was never used: it could not be removed when it was prepared in vain. It reports
// whether it has.
func (l *log) removeUnused(sequence uint64) bool {
	data, closed, err := l.folder.open(segmentName(sequence))
	if err != nil {
		return false
	}
	err = guardReads(func() error {
		_, err := parseHeader(data)
		return err
	})
	_ = closed()
	return errors.Is(err, errUnused) && l.folder.remove(segmentName(sequence)) == nil
}

// diskUsed returns how many bytes all segments take. The lock is held.
func (l *log) diskUsed() int64 {
	var used int64
	for _, s := range l.sealed {
		used += int64(s.size)
	}
	for _, s := range []*segment{l.head, l.next} {
		if s != nil {
			used += int64(len(s.mem))
		}
	}
	return used
}

package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// A log is the [journal.Journal] of a [Broker]: segments in a folder, of which the last one is written. Where a segment
// ends, the next one begins; another one is prepared ahead.
//
// Three things happen beside the writes: syncer makes records durable (sync.go), and maintainer prepares segments, copies
// what lives out of the oldest one (compaction.go), and begins anew after a fault (fault.go). Channels wait for none of it,
// unless the disk is slower than they are.
type log struct {
	folder   folder
	size     int // of a segment
	engine   journal.Engine
	settings atomic.Pointer[Settings]
	report   func(event)
	nextTag  atomic.Uint32

	// mu may be taken with a channel's lock held, never the other way round. It is held while a record is copied, and not
	// while the disk works. But a channel that needs a segment when none has been prepared waits for it, with its own lock held.
	mu        sync.Mutex
	head      *segment
	next      *segment   // prepared; may be nil
	nextErr   error      // why none could be prepared; nil if that was not tried
	preparing bool       // somebody makes next
	prepared  *sync.Cond // somebody has made it, or failed
	unsynced  []*segment
	sealed    []sealed // segments that are not written any more, oldest first
	commit    *journal.Commit
	holders   []holder // whom to tell when commit is durable
	fault     error    // why nothing may be written; see fault.go
	renewing  bool
	givenUp   *segment            // the head when the log broke down, since the log began anew or has tried to; its file is closed
	full      bool                // a record was refused for want of room, and there is none yet
	debts     map[journal.ID]bool // channels and topics of which something could not be written; true: what is about topics
	paying    bool                // debts were taken to be written
	owed      *journal.Commit     // somebody waits until there are no debts; may be nil
	retries   map[journal.ID]bool // channels in which something waits only because it could not be written
	inSync    bool                // somebody syncs
	syncs     *journal.Commit     // what is being made durable then; may be nil
	closed    bool

	stalled atomic.Bool // a sync takes too long

	syncing lock       // held while segments are synced or given up
	keeping sync.Mutex // held while a segment is removed, and while none may be; before any other lock
	dirty   chan struct{}
	wake    chan struct{}
	halting sync.Once
	stop    chan struct{}
	stopped sync.WaitGroup

	health   atomic.Pointer[error]
	reported error         // the health that was reported last; the maintainer's, like all below
	tried    bool          // it was reported that the log could not begin anew
	again    time.Time     // when it tries that next, at the earliest
	pause    time.Duration // before that
	scale    float64       // how much more the journal takes of what lives than the engine says
	measured struct {
		head   uint64 // which segment that was when scale was measured
		copied int64  // how many bytes were copied for that
	}
}

// A sealed segment is complete.
type sealed struct {
	sequence uint64
	end      int // how much of it counts
	size     int
}

// A holder is to be told when its messages up to a position are durable.
type holder struct {
	journal.Holder

	position uint64
}

// NextTag implements [journal.Journal].
func (l *log) NextTag() uint32 { return l.nextTag.Add(1) }

// Waits implements [journal.Journal].
func (l *log) Waits() bool { return l.settings.Load().Durability == Disk }

// Create implements [journal.Journal].
func (l *log) Create(c *journal.Channel) (*journal.Commit, error) {
	payload := appendChannel(nil, c)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.write(payload, nil, patient); err != nil {
		return nil, err
	}
	return l.committed(nil, 0), nil
}

// Put implements [journal.Journal].
func (l *log) Put(h journal.Holder, id journal.ID, position uint64, m *broker.Message, batch *journal.Batch, mustCommit bool,
) (*journal.Commit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.put(id, position, m, batch, patient); err != nil {
		return nil, err
	}
	if mustCommit {
		return l.committing(h, position), nil
	}
	return l.committed(h, position), nil
}

// put writes a message, in parts if it is large. The lock is held.
func (l *log) put(id journal.ID, position uint64, m *broker.Message, batch *journal.Batch, u urgency) error {
	var buffer [64]byte
	line, f := m.Line(), flagsOf(m, batch != nil || m.Uses().Buffered.Load() > 1)
	if len(line) > l.maxRecord() {
		return l.putParts(id, position, f, line, u)
	}
	if batch != nil {
		if err := l.makeRoom(recordSize(len(buffer)), u); err != nil { // or else the head may change below
			return fmt.Errorf("%w: %w", broker.ErrStorage, err)
		}
		if place := batch.Place.Load(); place != 0 && place>>32 == l.head.sequence&0xffffffff {
			_, err := l.write(appendSame(buffer[:0], id, position, int(place&0xffffffff)), nil, u)
			return err
		}
	}
	offset, err := l.write(appendPut(buffer[:0], id, position, f), line, u)
	if err == nil && batch != nil {
		batch.Place.Store(l.head.sequence<<32 | uint64(offset)) //nolint:gosec // not negative
	}
	return err
}

// putParts writes a message in parts. The lock is held.
func (l *log) putParts(id journal.ID, position uint64, f flags, line []byte, u urgency) error {
	var buffer [64]byte
	sum := crc32.Checksum(line, castagnoli)
	for offset := 0; offset < len(line); offset += l.maxRecord() {
		part := line[offset:min(len(line), offset+l.maxRecord())]
		if _, err := l.write(appendPart(buffer[:0], id, position, f, sum, len(line), offset), part, u); err != nil {
			return err // what is written of it does not count
		}
	}
	return nil
}

// maxRecord is the size of the largest line that one record has, in bytes. So no record makes others wait for long:
// a millisecond at most, also on a busy machine.
func (l *log) maxRecord() int { return min(l.size/64, 128<<10) }

// Move implements [journal.Journal].
func (l *log) Move(id journal.ID, m journal.Move) {
	var buffer [64]byte
	payload := appendMove(buffer[:0], id, &m)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeOrOwe(id, payload)
}

// Read implements [journal.Journal].
func (l *log) Read(id journal.ID, r journal.Read) {
	var buffer [64]byte
	payload := appendRead(buffer[:0], id, &r)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeOrOwe(id, payload)
}

// Delete implements [journal.Journal].
func (l *log) Delete(id journal.ID, ask bool) (*journal.Commit, error) {
	var buffer [64]byte
	payload := appendID(buffer[:0], kindDelete, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writeAsked(id, payload, ask); err != nil {
		return nil, err
	}
	return l.committed(nil, 0), nil
}

// committed returns the commit of what was just written, or nil if it need not be durable. The lock is held.
func (l *log) committed(h journal.Holder, position uint64) *journal.Commit {
	if !l.Waits() {
		return nil
	}
	return l.committing(h, position)
}

func (l *log) committing(h journal.Holder, position uint64) *journal.Commit {
	if l.commit == nil {
		l.commit = journal.NewCommit()
		signal(l.dirty)
	}
	if h != nil {
		l.holders = append(l.holders, holder{h, position})
	}
	return l.commit
}

// An urgency says whether a record may use the room that is kept for urgent ones.
type urgency int

const (
	// patient records add something. They are refused if there is no room.
	patient urgency = iota
	// asked records let go of something because a call has asked for that, which is told if they are refused.
	asked
	// urgent records let go of something, or are copies of which the originals are removed.
	urgent
	// renewal records are copies of everything, after a fault.
	renewal
)

// errClosed says that the log is closed.
var errClosed = errors.New("the journal is closed")

// write appends a record, whose payload is given in two parts, to the head. It returns the offset. It fails with
// [broker.ErrStorage]. The lock is held.
func (l *log) write(head, body []byte, u urgency) (offset int, err error) {
	if err := l.makeRoom(recordSize(len(head)+len(body)), u); err != nil {
		return 0, fmt.Errorf("%w: %w", broker.ErrStorage, err)
	}
	offset, err = l.head.append(head, body)
	if err != nil {
		l.breakDown(err)
		return 0, fmt.Errorf("%w: %w", broker.ErrStorage, err)
	}
	return offset, nil
}

// makeRoom makes the head a segment with room for so many bytes. The lock is held.
func (l *log) makeRoom(size int, u urgency) error {
	switch {
	case l.closed:
		return errClosed
	case l.fault != nil && (u < urgent || !l.renewing):
		return l.fault // what is written while the log begins anew is lost if that fails
	case u < urgent && l.stallsNow() != nil:
		return errStalled
	}
	free := len(l.head.mem) - l.head.end
	switch {
	case free >= size && (u != patient || l.next != nil || free >= size+l.reserve()):
		return nil
	case l.next == nil && l.nextErr == nil:
		if l.prepareNext(false); l.next == nil && l.nextErr == nil && l.isHalted() {
			return errClosed
		}
		return l.makeRoom(size, u) // others may have written meanwhile
	case l.next == nil:
		if !l.full {
			l.full = true
			l.setHealth(l.nextErr)
			signal(l.wake)
		}
		return l.nextErr
	}
	return l.advance(l.head.end, false)
}

// reserve is the room, at the end of the last segment that the disk has room for, which is kept for urgent records.
func (l *log) reserve() int { return l.size / 4 }

// advance makes the prepared segment the head. Of the present head, the first end bytes count. The lock is held.
func (l *log) advance(end int, suspect bool) error {
	old := l.head
	err := l.next.begin(&header{
		version: formatVersion, suspect: suspect, sequence: l.next.sequence, before: uint64(end), nextTag: l.nextTag.Load(), //nolint:gosec // not negative
	})
	if err != nil {
		l.breakDown(err)
		return err
	}
	l.head, l.next = l.next, nil
	if old != nil {
		l.sealed = append(l.sealed, sealed{old.sequence, end, len(old.mem)})
		l.unsynced = append(l.unsynced, old)
	}
	signal(l.wake)
	signal(l.dirty)
	return nil
}

// signal sends on a channel that has room for one value, unless it has one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

package disk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// A recovery reads a journal.
type recovery struct {
	folder   folder
	segments []*readSegment // oldest first
	unused   []string       // files that were prepared, and never used
	states   map[journal.ID]*state
	shares   bool                               // whether shared has any, so that the lock is not needed otherwise
	sharing  sync.Mutex                         // guards shared and byID while channels are made
	shared   map[place]*broker.Message          // messages that several channels hold; nil until they are made
	byID     map[broker.EventID]*broker.Message // the same
	report   Report
	nextTag  uint32
	all      bool // records behind damaged places count, and segments may be missing
	rewrites bool // what lives was written again, or only a part of it, so a message may have two positions
}

// A readSegment is a segment that is being read.
type readSegment struct {
	header

	name           string
	data           []byte
	end            int  // how much of it counts, which may be more than there is
	open           bool // nobody has said how much that is: it ends where no record follows
	broken, unused bool // it has no header; it has zeros in its place
	closed         func() error
}

// A state is what was read of a channel or a topic.
type state struct {
	channel  *journal.Channel // nil until its record comes
	move     journal.Move     // without keys
	keys     []broker.EventID
	read     *journal.Read // of the newest record; nil if channel is newer
	messages []messageRef
	deleted  bool
	topic    *journal.Topic // nil unless it is a topic
	member   *member        // nil unless the channel has to do with topics
}

// A messageRef is where a message, or a part of it, is in a segment.
type messageRef struct {
	position uint64
	segment  int // its index
	offset   int // of the record that has the line
	part     int // where the part begins in the line
}

// readJournal reads all segments. If all is true, it reads what is whole behind damaged places, too. The caller must call
// close. progress may be nil; see [Check].
func readJournal(ctx context.Context, f folder, all bool, progress func(read, all int64)) (*recovery, error) {
	r := &recovery{
		folder: f, all: all, states: map[journal.ID]*state{}, shared: map[place]*broker.Message{},
		byID: map[broker.EventID]*broker.Message{},
	}
	err := guardReads(func() error {
		if err := r.openSegments(); err != nil {
			return err
		}
		read := int64(0)
		for i := range r.segments {
			if progress != nil {
				progress(read, r.report.Bytes)
			}
			if err := r.readSegment(i); err != nil {
				return err
			}
			read += int64(len(r.segments[i].data))
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if progress != nil {
			progress(read, r.report.Bytes)
		}
		return nil
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *recovery) close() {
	for _, s := range r.segments {
		_ = s.closed()
	}
}

// openSegments finds the segments, and which part of each counts.
func (r *recovery) openSegments() error {
	names, err := r.folder.list()
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isSegmentName(name) })
	slices.Sort(names)
	for _, name := range names {
		if err := r.openSegment(name); err != nil {
			return err
		}
	}
	for n := len(r.segments); n > 0 && r.segments[n-1].unused; n = len(r.segments) {
		last := r.segments[n-1]
		r.segments, r.unused = r.segments[:n-1], append(r.unused, last.name)
		if err := last.closed(); err != nil {
			return err
		}
	}
	for i, s := range r.segments {
		r.report.Bytes += int64(len(s.data))
		if i == 0 {
			continue
		}
		before := r.segments[i-1]
		if before.sequence+1 != s.sequence {
			r.report.MissingFiles = append(r.report.MissingFiles, segmentName(before.sequence+1))
			if r.all {
				continue
			}
			return fmt.Errorf("the segment %s is missing: restore it, or repair the journal", segmentName(before.sequence+1))
		}
		if !s.broken {
			before.open, before.end = false, int(min(s.before, math.MaxInt))
		}
	}
	r.report.Segments = len(r.segments)
	return nil
}

// openSegment opens a segment and reads its header.
func (r *recovery) openSegment(name string) error {
	sequence, _ := parseSegmentName(name)
	data, closed, err := r.folder.open(name)
	if err != nil {
		return err
	}
	s := &readSegment{name: name, data: data, open: true, end: len(data), closed: closed}
	r.segments = append(r.segments, s) // so it is closed
	s.header, err = parseHeader(data)
	switch {
	case errors.Is(err, errUnused), errors.Is(err, errDamaged):
		// Its name tells its place, and that is all that reading it needs.
		s.sequence, s.broken, s.unused = sequence, true, errors.Is(err, errUnused)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case s.sequence != sequence:
		return fmt.Errorf("%s is the segment %d under another name: give it back the name %s", name, s.sequence, segmentName(s.sequence))
	}
	return nil
}

// readSegment reads the records of a segment.
func (r *recovery) readSegment(i int) error {
	s := r.segments[i]
	if !s.broken {
		r.nextTag = s.nextTag
		r.rewrites = r.rewrites || s.suspect
	} else {
		r.report.Damages = append(r.report.Damages, Damage{File: s.name, Bytes: segmentHeader, Middle: r.wasDurable(i, 0)})
	}
	end, err := readRecords(s.data, s.sequence, s.end, func(offset int, _ []byte, rec *record) bool {
		r.apply(i, offset, rec)
		return true
	})
	if err != nil && !errors.Is(err, errDamaged) {
		return fmt.Errorf("%s, offset %d: %w", s.name, end, err)
	}
	if s.open {
		s.end = max(end+len(withoutZeros(s.data[end:])), mark(s.data)) // the rest was only prepared
	}
	if err == nil && end == s.end {
		return nil
	}
	d := Damage{
		File: s.name, Offset: end, Bytes: s.end - end, Middle: r.wasDurable(i, end),
		Records: readBehind(s.data, s.sequence, end+8, s.end, func(offset int, rec *record) {
			if r.all {
				r.apply(i, offset, rec)
			}
		}),
	}
	if s.open && err == nil && d.Records == 0 && !d.Middle {
		s.end = end // the end, and perhaps a record that was about to be written
		return nil
	}
	r.report.Damages = append(r.report.Damages, d)
	if !r.all {
		s.end = end
	}
	return nil
}

// wasDurable reports whether a place is known to have been durable once: later segments, or this one, say so.
func (r *recovery) wasDurable(i, offset int) bool {
	if i+1 < len(r.segments) && r.segments[i+1].suspect {
		return false
	}
	for _, later := range r.segments[i+1:] {
		if later.suspect {
			break // what was not durable before it was given up
		}
		if mark(later.data) > 0 {
			return true
		}
	}
	return offset < mark(r.segments[i].data)
}

// apply applies a record.
func (r *recovery) apply(segment, offset int, rec *record) {
	if rec.kind == 0 {
		return
	}
	if (rec.kind == kindChannel || rec.kind == kindTopic) && int32(rec.id.Tag-r.nextTag) > 0 { //nolint:gosec // tags go round
		r.nextTag = rec.id.Tag
	}
	s := r.states[rec.id]
	if s == nil {
		s = &state{}
		r.states[rec.id] = s
	}
	switch rec.kind {
	case kindChannel:
		s.channel, s.read, s.keys = rec.channel, nil, rec.channel.LetGoKeys
		s.moved(&rec.channel.Move)
	case kindPut, kindPart:
		s.messages = append(s.messages, messageRef{rec.position, segment, offset, rec.offset})
	case kindSame:
		s.messages = append(s.messages, messageRef{rec.position, segment, rec.offset, 0})
		r.shared[place{r.segments[segment].sequence, rec.offset}] = nil
	case kindMove, kindTake:
		s.moved(&rec.move)
		s.keys = append(s.keys, rec.move.LetGoKeys...)
		s.keys = s.keys[max(0, len(s.keys)-broker.KeyWindow):]
	case kindRead:
		read := rec.read
		s.read = &read
	case kindDelete:
		*s = state{deleted: true}
	default:
		s.applyOfTopics(rec)
	}
}

// moved takes in how far messages were taken and let go. Records may come twice, so the farthest counts.
func (s *state) moved(m *journal.Move) {
	s.move.Taken = max(s.move.Taken, m.Taken)
	if m.LetGo > s.move.LetGo {
		s.move.LetGo, s.move.LetGoID = m.LetGo, m.LetGoID
	}
}

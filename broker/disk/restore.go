package disk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// restored are the channels and the topics that live, with their messages, by place.
type restored struct {
	channels []journal.Restored
	topics   []journal.RestoredTopic
}

// channels returns the channels and the topics that live. Several goroutines make them. It tells how many of them lack something.
func (r *recovery) channels() (all restored, gaps int, err error) {
	all.channels = make([]journal.Restored, 0, len(r.states))
	states := make([]*state, 0, len(r.states))
	r.dropNamesakes()
	for _, s := range r.states {
		if s.channel != nil || s.topic != nil {
			states = append(states, s)
		}
	}
	r.shares = len(r.shared) > 0
	parts := make([]restorer, min(runtime.GOMAXPROCS(0), 8))
	var done sync.WaitGroup
	for i := range parts {
		begin, end := len(states)*i/len(parts), len(states)*(i+1)/len(parts)
		parts[i] = restorer{recovery: r, err: errPanicked}
		done.Add(1)
		guard.Go(guard.Broker, func() {
			defer done.Done()
			parts[i].err = guardReads(func() error { return parts[i].restore(states[begin:end]) })
		})
	}
	done.Wait()
	for _, p := range parts {
		all.channels, all.topics = append(all.channels, p.made.channels...), append(all.topics, p.made.topics...)
		gaps += p.gaps
		r.report.Missing += p.missing
		r.report.MissingMemberships += p.missingMemberships
		r.report.Messages += p.messages
		err = cmp.Or(err, p.err)
	}
	slices.SortFunc(all.channels, func(a, b journal.Restored) int { return cmp.Compare(a.Place, b.Place) })
	slices.SortFunc(all.topics, func(a, b journal.RestoredTopic) int { return cmp.Compare(a.Place, b.Place) })
	r.report.count(&all)
	return all, gaps, err
}

// errPanicked is the error of a goroutine that has panicked.
var errPanicked = errors.New("a bug: see the panic in the log")

// A restorer makes some of the channels and topics that a recovery has read.
type restorer struct {
	*recovery

	made               restored
	gaps               int // channels and topics that lack something
	missing, messages  int // messages that they lack, and those that are there
	missingMemberships int // memberships of topics that are not there
	err                error
}

func (r *restorer) restore(states []*state) error {
	r.made.channels = make([]journal.Restored, 0, len(states))
	for _, s := range states {
		marks := s.newMarker()
		ms, missing, moved, err := r.messagesOf(s, marks)
		if err != nil {
			return err
		}
		r.missing += missing
		if s.topic != nil {
			t := s.topic
			t.Move, t.LetGoKeys = s.move, s.keys
			if t.End != nil {
				t.End = r.share(t.End, place{}, false)
			}
			r.made.topics = append(r.made.topics, journal.RestoredTopic{Topic: t, Kept: ms})
		} else {
			c := s.channel
			c.Move, c.LetGoKeys = s.move, s.keys
			if s.read != nil {
				c.Read = *s.read
			}
			topics, ends, lost := r.topicsOf(s)
			r.missingMemberships += lost
			missing += lost
			r.messages += len(ms)
			r.made.channels = append(r.made.channels, journal.Restored{
				Channel: c, Messages: ms, Topics: topics, Ends: ends, Marks: marks.finish(s.move.LetGo + uint64(len(ms)) + 1),
			})
		}
		if missing > 0 || moved {
			r.gaps++
		}
	}
	return nil
}

// messagesOf returns the messages that a channel or a topic holds, how many are missing between them, and whether some had two
// positions. It tells marks of each.
//
// If messages are missing, those behind them get earlier positions, and are written again. If that was interrupted, the first of them
// have two positions. Only the earlier one counts.
func (r *recovery) messagesOf(s *state, marks *marker) (ms []*broker.Message, missing int, moved bool, err error) {
	var seen map[broker.EventID]struct{}
	if r.rewrites {
		seen = make(map[broker.EventID]struct{}, len(s.messages))
	}
	refs := slices.DeleteFunc(s.messages, func(ref messageRef) bool { return ref.position <= s.move.LetGo })
	byPosition := func(a, b messageRef) int { return cmp.Compare(a.position, b.position) }
	if !slices.IsSortedFunc(refs, byPosition) {
		slices.SortStableFunc(refs, byPosition)
	}
	next := s.move.LetGo + 1
	ms = make([]*broker.Message, 0, len(refs))
	for len(refs) > 0 {
		n := 1
		for n < len(refs) && refs[n].position == refs[0].position {
			n++
		}
		m, lost, err := r.message(refs[:n])
		if err != nil {
			return nil, 0, false, err
		}
		if m != nil {
			missing += lost + int(refs[0].position-next) //nolint:gosec // a number of messages
			next = refs[0].position + 1
			if _, again := seen[m.ID()]; again {
				moved = true
			} else {
				ms = append(ms, m)
				marks.message(refs[0].position, s.move.LetGo+uint64(len(ms)))
			}
			if seen != nil {
				seen[m.ID()] = struct{}{}
			}
		}
		refs = refs[n:]
	}
	return ms, missing, moved, nil
}

// message makes a message from the records of one position, in their order. There may be several: the same one twice, the parts
// of a large one, parts of one that was refused, and those of messages that were merged. It returns nil if none is complete, and
// how many pieces it has left out.
func (r *recovery) message(refs []messageRef) (m *broker.Message, missing int, err error) {
	for i, ref := range slices.Backward(refs) {
		if m, err = r.messageAt(ref, refs); err != nil {
			return nil, 0, err
		}
		if m != nil {
			m, missing = r.append(m, refs[i+1:])
			return m, missing, nil
		}
	}
	return nil, 0, nil
}

// messageAt returns the message that a record completes, or nil if it completes none.
func (r *recovery) messageAt(ref messageRef, refs []messageRef) (*broker.Message, error) {
	at := place{r.segments[ref.segment].sequence, ref.offset}
	m, isShared := r.sharedAt(at)
	if m != nil {
		return m, nil
	}
	rec, err := r.recordOf(ref)
	if err != nil || rec.flags.after != 0 {
		return nil, nil //nolint:nilerr,nilnil // a piece, or the record that has the line is damaged, and counted as that
	}
	line := slices.Clone(rec.line)
	if rec.kind == kindPart {
		if line = r.join(refs, &rec); line == nil {
			return nil, nil //nolint:nilnil // as the comment says
		}
	}
	m, err = broker.RestoreLine(line, rec.flags.kind&keyedFlag != 0)
	if err != nil {
		return nil, fmt.Errorf("%s, offset %d: %w", r.segments[ref.segment].name, ref.offset, err)
	}
	m.WithMerge(rec.flags.merge)
	if isShared || rec.flags.kind&sharedFlag != 0 {
		m = r.share(m, at, isShared)
	}
	return m, nil
}

// sharedAt returns the message at a place if several channels hold it, and it has been made.
func (r *recovery) sharedAt(at place) (m *broker.Message, isShared bool) {
	if !r.shares {
		return nil, false
	}
	r.sharing.Lock()
	defer r.sharing.Unlock()
	m, isShared = r.shared[at]
	return m, isShared
}

// share returns the message that is the same as m for all channels that hold it. It may stand in several places.
func (r *recovery) share(m *broker.Message, at place, isShared bool) *broker.Message {
	r.sharing.Lock()
	defer r.sharing.Unlock()
	other := r.byID[m.ID()]
	if other == nil && isShared {
		other = r.shared[at]
	}
	if other != nil && bytes.Equal(other.Line(), m.Line()) {
		m = other
	}
	r.byID[m.ID()] = m
	if isShared {
		r.shared[at] = m
	}
	return m
}

// recordOf returns the record that has a line. Its checksum was checked, unless a kindSame names a place behind the end.
func (r *recovery) recordOf(ref messageRef) (record, error) {
	s := r.segments[ref.segment]
	if ref.offset >= s.end {
		return record{}, errDamaged
	}
	rec, err := recordAt(s.data, s.sequence, ref.offset)
	if err == nil && rec.kind != kindPut && rec.kind != kindPart {
		err = errDamaged
	}
	return rec, err
}

// join joins the parts of the line that a part belongs to. It returns nil if some are missing.
func (r *recovery) join(refs []messageRef, of *record) []byte {
	var line []byte
	byPart := slices.Clone(refs) // copies of parts may stand in another order
	slices.SortStableFunc(byPart, func(a, b messageRef) int { return cmp.Compare(a.part, b.part) })
	for _, ref := range byPart {
		rec, err := r.recordOf(ref)
		// A part may be there twice.
		if err == nil && rec.kind == kindPart && rec.sum == of.sum && rec.size == of.size && rec.offset == len(line) {
			line = append(line, rec.line...)
		}
	}
	if len(line) != of.size || crc32.Checksum(line, castagnoli) != of.sum {
		return nil
	}
	return line
}

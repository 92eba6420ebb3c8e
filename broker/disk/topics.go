package disk

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// A topic has records like a channel: a kindTopic, and what it keeps in kindPut and the like. A message that is published is
// written once. The topic, if it keeps the message, or else the first member has the kindPut; the others have a kindSame.
//
// So if the process ends in the middle of a publish, some members have the message after the restart and others do not. A publish
// that was acknowledged is complete: every member that was counted as having the message has it, and every one that has missed it
// says so with its next message.

// Topic implements [journal.Journal].
func (l *log) Topic(t *journal.Topic) error {
	payload := appendTopic(nil, t)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.write(payload, nil, patient)
	return err
}

// Join implements [journal.Journal].
func (l *log) Join(id, topic journal.ID) error { return l.join(id, topic, false) }

// EndWaits implements [journal.Journal].
func (l *log) EndWaits(id, topic journal.ID) error { return l.join(id, topic, true) }

// join writes a kindJoin that adds something.
func (l *log) join(id, topic journal.ID, endWaits bool) error {
	var buffer [64]byte
	payload := appendJoin(buffer[:0], kindJoin, id, topic, endWaits)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.write(payload, nil, patient)
	return err
}

// EndComes implements [journal.Journal].
func (l *log) EndComes(id, topic journal.ID) {
	var buffer [64]byte
	payload := appendJoin(buffer[:0], kindJoin, id, topic, false)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeOrOwe(id, payload)
}

// Leave implements [journal.Journal].
func (l *log) Leave(id, topic journal.ID, ask bool) error {
	var buffer [64]byte
	payload := appendJoin(buffer[:0], kindLeave, id, topic, false)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeAsked(id, payload, ask)
}

// Mark implements [journal.Journal].
func (l *log) Mark(id journal.ID, position uint64, m journal.Mark) {
	var buffer [64]byte
	payload := appendMark(buffer[:0], id, position, m)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeOrOwe(id, payload)
}

// headsOf returns what is to be written of a channel or a topic beside its messages. With ofTopics, that of a channel has what is
// about topics even if that is nothing.
func headsOf(c journal.Locked, ofTopics bool) (id journal.ID, heads [][]byte) {
	if t := c.Topic(); t != nil {
		return t.ID, [][]byte{appendTopic(nil, t)}
	}
	s := c.Snapshot()
	heads = [][]byte{appendChannel(nil, s)}
	if m := c.Member(); ofTopics || len(m.Topics) > 0 || len(m.Marks) > 0 {
		heads = append(heads, appendMember(nil, m))
	}
	return s.ID, heads
}

func appendTopic(b []byte, t *journal.Topic) []byte {
	b = appendID(b, kindTopic, t.ID)
	b = appendText(b, t.Name)
	b = append(b, bit(t.Set, 1))
	b = binary.AppendVarint(b, t.Keep.Bytes)
	b = binary.AppendVarint(b, int64(t.Keep.TTL))
	var end []byte
	if t.End != nil {
		end = t.End.Line()
	}
	b = appendText(b, end)
	return appendMoves(b, &t.Move)
}

// appendText appends a text and its length.
func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// appendJoin appends the payload of a kindJoin or kindLeave.
func appendJoin(b []byte, kind byte, id, topic journal.ID, endWaits bool) []byte {
	return appendMembership(appendID(b, kind, id), topic, endWaits)
}

// appendMembership appends the id of a topic. The bit that the places of all topics have says instead whether the topic's end waits.
func appendMembership(b []byte, id journal.ID, endWaits bool) []byte {
	if !endWaits {
		id.Place &^= journal.TopicPlace
	}
	b = binary.AppendUvarint(b, uint64(id.Place))
	return binary.AppendUvarint(b, uint64(id.Tag))
}

func appendMark(b []byte, id journal.ID, position uint64, m journal.Mark) []byte {
	b = binary.AppendUvarint(appendID(b, kindMark, id), position)
	return appendMarkOf(b, m)
}

func appendMarkOf(b []byte, m journal.Mark) []byte {
	b = append(b, bit(m.Outside, 1)|bit(m.Gap, 2))
	return binary.AppendUvarint(b, uint64(m.Missed)) //nolint:gosec // not negative
}

func appendMember(b []byte, m *journal.Member) []byte {
	b = appendID(b, kindMember, m.ID)
	b = binary.AppendUvarint(b, uint64(len(m.Topics)))
	for _, id := range m.Topics {
		b = appendMembership(b, id, slices.Contains(m.Ends, id))
	}
	for _, run := range m.Marks {
		b = binary.AppendUvarint(b, run.Position)
		b = binary.AppendUvarint(b, uint64(run.Count)) //nolint:gosec // not negative
		b = appendMarkOf(b, run.Mark)
	}
	return b
}

// ofTopics reads the rest of a record that is about topics.
func (d *decoder) ofTopics(kind byte, r *record) {
	switch kind {
	case kindTopic:
		r.topic = d.topic(r.id)
	case kindJoin, kindLeave:
		r.joins, r.endWaits = d.membership()
	case kindMark:
		r.position, r.mark = d.uint(), d.mark()
	case kindMember:
		r.member = d.member(r.id)
	}
	d.bad = d.bad || (kind == kindTopic) != (r.id.Place&journal.TopicPlace != 0)
}

func (d *decoder) topic(id journal.ID) *journal.Topic {
	t := &journal.Topic{ID: id, Name: string(d.bytes(d.int()))}
	if flags := d.bytes(1); flags != nil {
		t.Set = flags[0]&1 != 0
	}
	t.Keep = broker.Keep{Bytes: d.varint(), TTL: time.Duration(d.varint())}
	if end := d.bytes(d.int()); len(end) > 0 {
		var err error
		t.End, err = broker.RestoreLine(slices.Clone(end), false)
		d.bad = d.bad || err != nil || t.End.End() == ""
	}
	t.Move = d.moves()
	d.bad = d.bad || broker.CheckTopic(t.Name) != nil
	return t
}

func (d *decoder) membership() (topic journal.ID, endWaits bool) {
	place := d.uint32()
	return journal.ID{Place: place | journal.TopicPlace, Tag: d.uint32()}, place&journal.TopicPlace != 0
}

func (d *decoder) mark() (m journal.Mark) {
	if flags := d.bytes(1); flags != nil {
		m.Outside, m.Gap = flags[0]&1 != 0, flags[0]&2 != 0
	}
	m.Missed = d.int()
	return m
}

func (d *decoder) member(id journal.ID) *journal.Member {
	m := &journal.Member{ID: id}
	for n := d.int(); n > 0 && !d.bad; n-- {
		topic, endWaits := d.membership()
		if m.Topics = append(m.Topics, topic); endWaits {
			m.Ends = append(m.Ends, topic)
		}
	}
	for !d.bad && len(d.rest) > 0 {
		run := journal.Marks{Position: d.uint(), Count: d.int(), Mark: d.mark()}
		m.Marks = append(m.Marks, run)
		d.bad = d.bad || run.Count > 1 && run.Mark != journal.Mark{Outside: true}
	}
	return m
}

// A member is what was read of a channel because of topics.
type member struct {
	topics []journal.ID
	ends   []journal.ID            // those of them whose end waits
	marks  map[uint64]journal.Mark // by position
	runs   []journal.Marks         // of messages outside the buffer; a mark of a single position replaces these
}

// markAt returns the mark of a position.
func (m *member) markAt(position uint64) (mark journal.Mark) {
	mark, single := m.marks[position]
	if !single {
		mark.Outside = slices.ContainsFunc(m.runs, func(r journal.Marks) bool {
			return position-r.Position < uint64(r.Count) //nolint:gosec // not negative
		})
	}
	return mark
}

// applyOfTopics applies a record that is about topics.
func (s *state) applyOfTopics(rec *record) {
	if rec.kind == kindTopic {
		s.topic, s.keys = rec.topic, rec.topic.LetGoKeys
		s.moved(&rec.topic.Move)
		return
	}
	if s.member == nil {
		s.member = &member{}
	}
	m := s.member
	switch rec.kind {
	case kindJoin:
		if !slices.Contains(m.topics, rec.joins) {
			m.topics = append(m.topics, rec.joins)
		}
		if m.ends = without(m.ends, rec.joins); rec.endWaits {
			m.ends = append(m.ends, rec.joins)
		}
	case kindLeave:
		m.topics, m.ends = without(m.topics, rec.joins), without(m.ends, rec.joins)
	case kindMark:
		m.set(rec.position, rec.mark)
	case kindMember:
		*m = member{topics: rec.member.Topics, ends: rec.member.Ends}
		for _, run := range rec.member.Marks {
			if run.Count == 1 {
				m.set(run.Position, run.Mark)
			} else {
				m.runs = append(m.runs, run)
			}
		}
	}
}

func without(ids []journal.ID, id journal.ID) []journal.ID {
	return slices.DeleteFunc(ids, func(other journal.ID) bool { return other == id })
}

func (m *member) set(position uint64, mark journal.Mark) {
	if m.marks == nil {
		m.marks = map[uint64]journal.Mark{}
	}
	m.marks[position] = mark
}

// dropNamesakes drops topics of which there is a newer one with the same name. They had ceased to exist, and the record that says
// so could not be written.
func (r *recovery) dropNamesakes() {
	newest := map[string]journal.ID{}
	for id, s := range r.states {
		if s.topic == nil {
			continue
		}
		other, has := newest[s.topic.Name]
		if has && int32(id.Tag-other.Tag) < 0 { //nolint:gosec // tags go round
			id, other = other, id
		}
		if newest[s.topic.Name] = id; has {
			*r.states[other] = state{deleted: true}
		}
	}
}

// topicsOf returns of which topics a channel is a member, for which of them the end waits, and how many of its topics are lost.
func (r *recovery) topicsOf(s *state) (topics, ends []journal.ID, lost int) {
	if s.member == nil {
		return nil, nil, 0
	}
	for _, id := range s.member.topics {
		switch t := r.states[id]; {
		case t != nil && t.topic != nil:
			if topics = append(topics, id); slices.Contains(s.member.ends, id) {
				ends = append(ends, id)
			}
		case t == nil || !t.deleted:
			lost++
		}
	}
	return topics, ends, lost
}

// A marker tells which marks are those of which messages. What was missed before a message that is lost was missed before the next
// one.
type marker struct {
	*member

	positions []uint64 // of marks that are left, oldest first
	all       []journal.Marks
}

// newMarker returns the marker of a channel. It is nil if the channel has no marks.
func (s *state) newMarker() *marker {
	if s.member == nil || len(s.member.marks) == 0 && len(s.member.runs) == 0 {
		return nil
	}
	m := &marker{member: s.member, positions: slices.Sorted(maps.Keys(s.member.marks))}
	for len(m.positions) > 0 && m.positions[0] <= s.move.LetGo {
		m.positions = m.positions[1:]
	}
	return m
}

// message tells that the next message was at a position, and has another one now.
func (m *marker) message(was, now uint64) {
	if m == nil {
		return
	}
	mark := m.upTo(was)
	if mark.Gap = false; mark != (journal.Mark{}) {
		m.all = append(m.all, journal.Marks{Position: now, Count: 1, Mark: mark})
	}
}

// upTo returns the mark of a position, with what was missed before earlier ones.
func (m *marker) upTo(position uint64) (mark journal.Mark) {
	missed := 0
	for len(m.positions) > 0 && m.positions[0] <= position {
		missed += m.marks[m.positions[0]].Missed
		m.positions = m.positions[1:]
	}
	mark = m.markAt(position)
	mark.Missed = missed
	return mark
}

// finish returns all marks. The next message will get a position.
func (m *marker) finish(next uint64) []journal.Marks {
	if m == nil {
		return nil
	}
	if n := len(m.positions); n > 0 {
		mark := m.upTo(m.positions[n-1])
		if mark.Outside = false; mark != (journal.Mark{}) {
			m.all = append(m.all, journal.Marks{Position: next, Count: 1, Mark: mark})
		}
	}
	return m.all
}

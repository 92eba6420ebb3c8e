package disk

import (
	"bytes"
	"math"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// A message that is merged (protocol.md 2.13) keeps its position. So a position may have several records, of which the last
// that is complete counts, and the pieces behind it. A message that grows by small pieces costs what the pieces take, not what
// it takes each time.
//
// Compaction never moves an old record of a position behind a newer one: in its place it writes the message as it is.

// Merge implements [journal.Journal]. It writes a piece, or the whole message if that has no pieces or the piece is large.
func (l *log) Merge(h journal.Holder, id journal.ID, position uint64, m journal.Merge, mustCommit bool) (*journal.Commit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.merge(id, position, &m); err != nil {
		return nil, err
	}
	if mustCommit {
		return l.committing(h, position), nil
	}
	return l.committed(h, position), nil
}

// merge writes what is new. The lock is held.
func (l *log) merge(id journal.ID, position uint64, m *journal.Merge) error {
	line := m.Newer.Line()
	if m.Newer == m.Whole || len(line) > l.maxRecord() {
		return l.put(id, position, m.Whole, nil, patient)
	}
	var buffer [64]byte
	f := flagsOf(m.Newer, false)
	f.after = len(m.Older.Body())
	_, err := l.write(appendPut(buffer[:0], id, position, f), line, patient)
	return err
}

// append appends the pieces that follow a message in its position's records. It returns the whole, and how many pieces it has
// left out, because another one is missing before them.
func (r *recovery) append(m *broker.Message, refs []messageRef) (whole *broker.Message, missing int) {
	all, size := []*broker.Message{m}, len(m.Body())
	for _, ref := range refs {
		rec, err := r.recordOf(ref)
		if err != nil || rec.flags.after == 0 {
			continue
		}
		piece, err := broker.RestoreLine(bytes.Clone(rec.line), rec.flags.kind&keyedFlag != 0)
		if err != nil || rec.flags.after != size || !piece.WithMerge(rec.flags.merge).CanMerge(all[len(all)-1], math.MaxInt64) {
			missing++
			continue
		}
		all, size = append(all, piece), piece.SizeBehind(size)
	}
	if last := len(all) - 1; last > 0 {
		m = all[last].MergeWith(all[:last]...)
	}
	return m, missing
}

// isOutdated reports whether the record is not all of what its position has now, because that may be merged.
func (c *copier) isOutdated(now *broker.Message) bool {
	if now == nil || now.Merge() == broker.MergeNone {
		return false
	}
	r := c.record
	switch r.kind {
	case kindPut:
		return r.flags.after != 0 || !bytes.Equal(r.line, now.Line())
	case kindSame:
		original, err := recordAt(c.data, c.sequence, r.offset)
		return err == nil && !bytes.Equal(original.line, now.Line())
	}
	return true // a part; whether it is one of the whole takes long to tell
}

// renew writes the message that the record's position has now, unless that was done for another record of the position. The
// lock of the log is held.
func (c *copier) renew(now *broker.Message) error {
	r := c.record
	if c.renewed[r.id] == r.position {
		return nil
	}
	c.copied += int64(len(now.Line()))
	err := c.log.put(r.id, r.position, now, nil, urgent)
	if err == nil {
		c.renewed[r.id] = r.position
	}
	return err
}

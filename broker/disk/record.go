package disk

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/bits"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// A record is a header and a payload. The header is one word of 64 bits: the length of the payload, and its checksum. It
// is written last, and at once. So a record is there as a whole, or the word is zero. The payload begins with a byte for
// its kind. Numbers have a variable length, and secrets, event ids and lines are as they are. Records begin at multiples
// of 8 bytes.
//
// The checksum covers where the record is and how long it is. So no record counts in another place than its own.
const recordHeader = 8

// The kinds of records.
const (
	// kindChannel has all of a channel but its messages. It replaces what was known of the channel. Each channel begins
	// with one, and compaction writes another one.
	kindChannel byte = 1 + iota
	// kindPut has a message.
	kindPut
	// kindPart has a part of a message that is too large for one record.
	kindPart
	// kindSame has a message that a kindPut of another channel or topic, earlier in the same segment, has too.
	kindSame
	// kindMove says how far messages were taken and let go, and kindTake only how far they were taken.
	kindMove
	kindTake
	// kindRead is the beginning or the end of a read.
	kindRead
	// kindDelete is the end of a channel, or of a topic.
	kindDelete

	// kindTopic has all of a topic but the messages that it keeps. It replaces what was known of the topic. The first membership
	// or message of a topic comes after one, and compaction writes another one. Those messages are in kindPut and the like, as if
	// the topic were a channel.
	kindTopic
	// kindJoin and kindLeave are the beginning and the end of a membership. Later kindJoin say whether the topic's end waits for its turn
	// in the channel.
	kindJoin
	kindLeave
	// kindMark says what is special about a message because of topics: see [journal.Mark]. It replaces what was known of the position.
	kindMark
	// kindMember has all memberships and marks of a channel. It replaces what was known of them.
	kindMember
	lastKind = kindMember

	// keyedFlag marks a kindPut or kindPart whose message has an idempotency key.
	keyedFlag byte = 0x40
	// sharedFlag marks one whose message several channels have. They share its memory after a restart, too.
	sharedFlag byte = 0x20
	// mergeFlag marks one whose message may be merged. A byte after the position says how: a [broker.Merge], and pieceBit.
	mergeFlag byte = 0x10
	// pieceBit, in that byte, marks a piece that was appended to the message which the position had until then. How long the
	// body of that was follows, so that no piece counts behind one that is missing. A record without it replaces the message.
	pieceBit byte = 0x80
	// skipFlag marks records that a reader may skip if it does not know their kind. There are none yet.
	skipFlag byte = 0x80
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns the checksum of a payload at a place of a segment.
func checksum(segment uint64, offset int, payload []byte) uint32 {
	seed := segment*0x9e3779b97f4a7c15 ^ uint64(offset)<<32 ^ bits.Reverse64(uint64(len(payload))) //nolint:gosec // mixes bits
	return crc32.Update(uint32(seed^seed>>32), castagnoli, payload)                                //nolint:gosec // mixes bits
}

// recordSize returns how many bytes a record takes.
func recordSize(payload int) int { return (recordHeader + payload + 7) &^ 7 }

func appendID(b []byte, kind byte, id journal.ID) []byte {
	b = binary.AppendUvarint(append(b, kind), uint64(id.Place))
	return binary.AppendUvarint(b, uint64(id.Tag))
}

// appendPosition appends the beginning of a payload that has a message or a part of it.
func appendPosition(b []byte, kind byte, id journal.ID, position uint64, f flags) []byte {
	b = binary.AppendUvarint(appendID(b, kind|f.kind, id), position)
	if f.kind&mergeFlag == 0 {
		return b
	}
	if f.after == 0 {
		return append(b, byte(f.merge))
	}
	return binary.AppendUvarint(append(b, byte(f.merge)|pieceBit), uint64(f.after)) //nolint:gosec // not negative
}

// appendPut appends the payload of a kindPut up to the line.
func appendPut(b []byte, id journal.ID, position uint64, f flags) []byte {
	return appendPosition(b, kindPut, id, position, f)
}

// appendPart appends the payload of a kindPart up to the bytes of the line that begin at an offset. The sum is that of the
// whole line. It tells the parts of one line from those of another that was refused before all its parts were written.
func appendPart(b []byte, id journal.ID, position uint64, f flags, sum uint32, size, offset int) []byte {
	b = appendPosition(b, kindPart, id, position, f)
	b = binary.LittleEndian.AppendUint32(b, sum)
	b = binary.AppendUvarint(b, uint64(size))      //nolint:gosec // not negative
	return binary.AppendUvarint(b, uint64(offset)) //nolint:gosec // not negative
}

// appendSame appends the payload of a kindSame. The message is that of the kindPut at an offset of the segment.
func appendSame(b []byte, id journal.ID, position uint64, offset int) []byte {
	b = binary.AppendUvarint(appendID(b, kindSame, id), position)
	return binary.AppendUvarint(b, uint64(offset)) //nolint:gosec // not negative
}

func appendMove(b []byte, id journal.ID, m *journal.Move) []byte {
	if m.LetGo == 0 && len(m.LetGoKeys) == 0 {
		return binary.AppendUvarint(appendID(b, kindTake, id), m.Taken)
	}
	return appendMoves(appendID(b, kindMove, id), m)
}

func appendMoves(b []byte, m *journal.Move) []byte {
	b = binary.AppendUvarint(b, m.Taken)
	b = binary.AppendUvarint(b, m.LetGo)
	b = append(b, m.LetGoID[:]...)
	for _, key := range m.LetGoKeys {
		b = append(b, key[:]...)
	}
	return b
}

func appendRead(b []byte, id journal.ID, r *journal.Read) []byte {
	return appendReads(appendID(b, kindRead, id), r)
}

func appendReads(b []byte, r *journal.Read) []byte {
	b = append(b, bit(r.Follows, 1)|bit(r.Acks, 2)|bit(r.OwnTTL, 4)|bit(r.KnowsTopics, 8))
	b = binary.AppendVarint(b, unixNano(r.LastRead))
	b = binary.AppendVarint(b, int64(r.TTL))
	return binary.AppendUvarint(b, r.Unconfirmed)
}

func appendChannel(b []byte, c *journal.Channel) []byte {
	b = appendID(b, kindChannel, c.ID)
	b = append(b, c.Producer[:]...)
	b = append(b, c.Consumer[:]...)
	for _, text := range []string{c.Agent, c.Client} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	b = binary.AppendVarint(b, unixNano(c.Created))
	b = appendReads(b, &c.Read)
	return appendMoves(b, &c.Move)
}

func bit(set bool, f byte) byte {
	if set {
		return f
	}
	return 0
}

// unixNano returns a time as a number. Zero stands for no time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// flags are what a record says of its message.
type flags struct {
	kind  byte // the flags that stand beside the kind
	merge broker.Merge
	after int // for a piece: how long the body was to which it was appended, in bytes; otherwise 0
}

// flagsOf returns the flags of a message.
func flagsOf(m *broker.Message, shared bool) flags {
	return flags{
		kind:  bit(m.Keyed(), keyedFlag) | bit(shared, sharedFlag) | bit(m.Merge() != broker.MergeNone, mergeFlag),
		merge: m.Merge(),
	}
}

// A record is the payload of a record, taken apart. Which fields it has depends on the kind.
type record struct {
	kind     byte
	flags    flags
	id       journal.ID
	position uint64
	sum      uint32 // of the whole line, for kindPart
	size     int    // of the whole line, for kindPart
	offset   int    // of the part in the line, or of the message's kindPut in the segment
	line     []byte // or the part of it; not copied
	channel  *journal.Channel
	move     journal.Move
	read     journal.Read
	topic    *journal.Topic
	joins    journal.ID // the topic, for kindJoin and kindLeave
	endWaits bool       // for kindJoin
	mark     journal.Mark
	member   *journal.Member
}

// errUnknown marks a record of a kind that this version does not know, and must not skip.
var errUnknown = errors.New("the record is of a newer version: use the program that wrote the journal, or a later one")

// errMalformed marks a payload whose checksum is right and whose text is not. Nothing but another program writes that.
var errMalformed = errors.New("the record is malformed")

// maxLine is the size of the largest line that a journal has, in bytes. A message has at most 1 GiB.
const maxLine = 1<<30 + 1<<20

// parseRecord takes a payload apart. It keeps the payload. A record that may be skipped has the kind 0.
func parseRecord(payload []byte) (r record, err error) {
	if len(payload) == 0 {
		return r, errMalformed
	}
	d := decoder{rest: payload[1:]}
	const ofMessages = keyedFlag | sharedFlag | mergeFlag
	kind := payload[0] &^ ofMessages
	r.kind, r.flags.kind = kind, payload[0]&ofMessages
	if kind == 0 || kind > lastKind {
		if kind&skipFlag != 0 {
			return record{}, nil
		}
		return r, errUnknown
	}
	r.id = journal.ID{Place: d.uint32(), Tag: d.uint32()}
	switch kind {
	case kindChannel:
		r.channel = d.channel(r.id)
	case kindPut:
		r.position = d.uint()
		d.merge(&r.flags)
		r.line = d.all()
	case kindPart:
		r.position = d.uint()
		d.merge(&r.flags)
		r.sum, r.size, r.offset, r.line = d.sum(), d.int(), d.int(), d.all()
		d.bad = d.bad || r.size > maxLine || r.offset+len(r.line) > r.size
	case kindSame:
		r.position, r.offset = d.uint(), d.int()
	case kindMove:
		r.move = d.moves()
	case kindTake:
		r.move.Taken = d.uint()
	case kindRead:
		r.read = d.reads()
	case kindDelete: // that is all
	default:
		d.ofTopics(kind, &r)
	}
	if d.bad || len(d.rest) > 0 {
		return r, errMalformed
	}
	return r, nil
}

// A decoder reads a payload from its beginning. Once something is wrong, bad is true, and all values are zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	d.bad = d.bad || v>>32 != 0
	return uint32(v) //nolint:gosec // checked
}

func (d *decoder) int() int {
	v := d.uint()
	if v > maxLine {
		d.bad = true
		return 0
	}
	return int(v)
}

func (d *decoder) sum() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// bytes returns the next n bytes, without a copy.
func (d *decoder) bytes(n int) []byte {
	if n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// merge reads how a message may be merged.
func (d *decoder) merge(f *flags) {
	if f.kind&mergeFlag == 0 {
		return
	}
	if b := d.bytes(1); b != nil {
		f.merge = broker.Merge(b[0] &^ pieceBit)
		d.bad = d.bad || f.merge == broker.MergeNone || f.merge > broker.MergeAppend
		if b[0]&pieceBit != 0 {
			f.after = d.int()
			d.bad = d.bad || f.after == 0
		}
	}
}

func (d *decoder) all() []byte { return d.bytes(len(d.rest)) }

func (d *decoder) id() (id [16]byte) {
	copy(id[:], d.bytes(len(id)))
	return id
}

func (d *decoder) moves() (m journal.Move) {
	m.Taken, m.LetGo, m.LetGoID = d.uint(), d.uint(), d.id()
	for !d.bad && len(d.rest) > 0 {
		m.LetGoKeys = append(m.LetGoKeys, d.id())
	}
	d.bad = d.bad || len(m.LetGoKeys) > broker.KeyWindow
	return m
}

func (d *decoder) reads() (r journal.Read) {
	if flags := d.bytes(1); flags != nil {
		r.Follows, r.Acks, r.OwnTTL, r.KnowsTopics = flags[0]&1 != 0, flags[0]&2 != 0, flags[0]&4 != 0, flags[0]&8 != 0
	}
	r.LastRead, r.TTL = fromUnixNano(d.varint()), time.Duration(d.varint())
	r.Unconfirmed = d.uint()
	return r
}

func (d *decoder) channel(id journal.ID) *journal.Channel {
	c := &journal.Channel{ID: id, Producer: d.id(), Consumer: d.id()}
	c.Agent, c.Client = string(d.bytes(d.int())), string(d.bytes(d.int()))
	c.Created = fromUnixNano(d.varint())
	c.Read = d.reads()
	c.Move = d.moves()
	d.bad = d.bad || id.Place&journal.TopicPlace != 0 || !broker.ValidAgent(c.Agent)
	return c
}

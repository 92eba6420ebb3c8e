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
	// kindSame has a message that a kindPut of another channel, earlier in the same segment, has too.
	kindSame
	// kindMove says how far messages were taken and let go, and kindTake only how far they were taken.
	kindMove
	kindTake
	// kindRead is the beginning or the end of a read.
	kindRead
	// kindDelete is the end of a channel.
	kindDelete

	// keyedFlag marks a kindPut or kindPart whose message has an idempotency key.
	keyedFlag byte = 0x40
	// sharedFlag marks one whose message several channels have. They share its memory after a restart, too.
	sharedFlag byte = 0x20
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

// appendPut appends the payload of a kindPut up to the line.
func appendPut(b []byte, id journal.ID, position uint64, flags byte) []byte {
	return binary.AppendUvarint(appendID(b, kindPut|flags, id), position)
}

// appendPart appends the payload of a kindPart up to the bytes of the line that begin at an offset. The sum is that of the
// whole line. It tells the parts of one line from those of another that was refused before all its parts were written.
func appendPart(b []byte, id journal.ID, position uint64, flags byte, sum uint32, size, offset int) []byte {
	b = binary.AppendUvarint(appendID(b, kindPart|flags, id), position)
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
	if m.LetGo == 0 {
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
	b = append(b, bit(r.Follows, 1)|bit(r.Acks, 2))
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

// flagsOf returns the flags of a message.
func flagsOf(m *broker.Message, shared bool) byte {
	return bit(m.Keyed(), keyedFlag) | bit(shared, sharedFlag)
}

// A record is the payload of a record, taken apart. Which fields it has depends on the kind.
type record struct {
	kind     byte
	flags    byte // of the message
	id       journal.ID
	position uint64
	sum      uint32 // of the whole line, for kindPart
	size     int    // of the whole line, for kindPart
	offset   int    // of the part in the line, or of the message's kindPut in the segment
	line     []byte // or the part of it; not copied
	channel  *journal.Channel
	move     journal.Move
	read     journal.Read
}

// errUnknown marks a record of a kind that this version does not know, and must not skip.
var errUnknown = errors.New("the record is of a newer version")

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
	const ofMessages = keyedFlag | sharedFlag
	kind := payload[0] &^ ofMessages
	r.kind, r.flags = kind, payload[0]&ofMessages
	if kind == 0 || kind > kindDelete {
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
		r.position, r.line = d.uint(), d.all()
	case kindPart:
		r.position, r.sum, r.size, r.offset, r.line = d.uint(), d.sum(), d.int(), d.int(), d.all()
		d.bad = d.bad || r.size > maxLine || r.offset+len(r.line) > r.size
	case kindSame:
		r.position, r.offset = d.uint(), d.int()
	case kindMove:
		r.move = d.moves()
	case kindTake:
		r.move.Taken = d.uint()
	case kindRead:
		r.read = d.reads()
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
		r.Follows, r.Acks = flags[0]&1 != 0, flags[0]&2 != 0
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
	d.bad = d.bad || !broker.ValidAgent(c.Agent)
	return c
}

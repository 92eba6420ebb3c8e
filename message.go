package megaphone

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// EventID names a message, in all channels that it was written to (protocol.md 1.6). It is a UUID: version 7
// for a message without a key, version 5 of the key for one with (protocol.md 2.11).
type EventID = uuid.UUID

// A Message is one event and the line that carries it, rendered once however many channels it is written to.
// It never changes after [NewMessage] and may be read from any goroutine.
type Message struct {
	id    EventID
	keyed bool
	line  []byte
	at    time.Duration // of the timestamp, on messageClock

	// How many channels hold the message in their queue, and in their line of waiting producers: see memory.
	buffered, held atomic.Int32
}

// ErrMessage marks a message that cannot be sent: an empty stream id, or text that is not UTF-8 or not JSON.
// The error that wraps it says what is wrong, in words for the producer.
var ErrMessage = errors.New("invalid message")

// messageOverhead approximates, in bytes, what a message costs beside its line.
const messageOverhead = 96

// NewMessage renders the message that a producer wrote to streamID: body is one JSON value of any kind, which
// reaches the consumer as the same text, compacted (protocol.md 1.4). A key, if not empty, makes the write
// idempotent: the event id is then derived from it. Neither body nor the strings are kept.
func NewMessage(streamID string, body []byte, key string) (*Message, error) {
	if streamID == "" {
		return nil, fmt.Errorf("%w: the stream id is empty", ErrMessage)
	}
	if !utf8.ValidString(streamID) {
		return nil, fmt.Errorf("%w: the stream id is not UTF-8", ErrMessage)
	}
	m, line := beginMessage(len(streamID)+2, len(body), key)
	line = appendString(line, streamID)
	line = m.appendFrame(line)
	line, err := appendCompact(line, body, 1)
	if err != nil {
		return nil, fmt.Errorf("%w: the body is not JSON: %w", ErrMessage, err)
	}
	return m.finish(line), nil
}

// beginMessage makes a message, and begins a line with room for a stream id, as JSON, and a body of these sizes.
func beginMessage(streamID, body int, key string) (*Message, []byte) {
	m := &Message{}
	if key != "" {
		m.id, m.keyed = KeyedEventID(key), true
	}
	const frame = len(`{"sid":,"eid":"00000000-0000-0000-0000-000000000000","ts":"2006-01-02T15:04:05.000000000Z","body":}`) + 1
	return m, append(make([]byte, 0, frame+streamID+body), `{"sid":`...)
}

// appendFrame appends what stands between the stream id and the body.
func (m *Message) appendFrame(line []byte) []byte {
	m.at = messageClock()
	second, nanosecond := wallClock(m.at)
	if !m.keyed {
		m.id = newEventID(second.unix, nanosecond)
	}
	line = append(line, `,"eid":"`...)
	line = appendEventID(line, m.id)
	line = append(line, `","ts":"`...)
	line = append(line, second.text...)
	line = appendFraction(line, nanosecond)
	return append(line, `","body":`...)
}

// messageClock is the time on the clock that messages tell their age by, which is monotonic.
func messageClock() time.Duration { return time.Since(messageEpoch) }

var messageEpoch = time.Now()

// finish takes the line, which has its body, as the message's. Memory that white space in the body has taken is not kept.
func (m *Message) finish(line []byte) *Message {
	m.line = append(line, "}\n"...)
	if unused := cap(m.line) - len(m.line); unused > messageOverhead && unused > len(m.line)/4 {
		m.line = bytes.Clone(m.line)
	}
	return m
}

// ID returns the message's event id.
func (m *Message) ID() EventID { return m.id }

// Line returns the message as one line of NDJSON with its line feed (protocol.md 1.6). The bytes are shared:
// they must not be changed.
func (m *Message) Line() []byte { return m.line }

// JSON returns the JSON object of the message, which is its line without the line feed. The bytes are shared.
func (m *Message) JSON() []byte { return m.line[:len(m.line)-1] }

// size is what the message counts toward the limit on memory, in bytes.
func (m *Message) size() int64 { return int64(len(m.line) + messageOverhead) }

// keySpace is the namespace of the UUIDs that are derived from keys.
var keySpace = uuid.MustParse("5f0c8d4e-2b0a-4c57-9d5c-6a3de4c4a3f1")

// KeyedEventID returns the event id of a message that was written with an idempotency key (protocol.md 2.11).
func KeyedEventID(key string) EventID { return uuid.NewSHA1(keySpace, []byte(key)) }

// ParseEventID reads an event id as a cursor or an acknowledgement shows it.
func ParseEventID(s string) (EventID, bool) {
	if len(s) != 36 {
		return EventID{}, false // uuid.Parse takes other notations too
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// newEventID returns a UUID of version 7 (RFC 9562, 5.7 with the fraction of a millisecond of 6.2, method 3).
// Event ids need to be unique, not secret, so its 62 random bits come from the runtime's generator, which takes
// no lock: uuid.NewV7 takes a global one and reads the system's randomness for each.
func newEventID(unix int64, nanosecond int) EventID {
	var id EventID
	millisecond, rest := nanosecond/1e6, nanosecond%1e6
	fraction := uint64(rest) << 12 / 1e6                                                        //nolint:gosec // not negative
	binary.BigEndian.PutUint64(id[:8], uint64(unix*1000+int64(millisecond))<<16|7<<12|fraction) //nolint:gosec // not negative
	binary.BigEndian.PutUint64(id[8:], 1<<63|rand.Uint64()>>2)                                  //nolint:gosec // unique, not secret
	return id
}

// A wallSecond is a second of the time of day.
type wallSecond struct {
	unix  int64
	text  string        // of a timestamp up to its fraction (RFC 3339, in UTC)
	begin time.Duration // of the second, on messageClock
}

var lastSecond atomic.Pointer[wallSecond]

// wallClock is the time of day for a time on messageClock that has just come. Only once a second is the system asked,
// which is expensive, and is the text formatted, which is more so: so a step of the system's clock is seen within a second.
func wallClock(at time.Duration) (second *wallSecond, nanosecond int) {
	if second = lastSecond.Load(); second != nil && at >= second.begin && at < second.begin+time.Second {
		return second, int(at - second.begin)
	}
	now := time.Now()
	second = &wallSecond{
		unix:  now.Unix(),
		text:  now.UTC().Format("2006-01-02T15:04:05."),
		begin: now.Sub(messageEpoch) - time.Duration(now.Nanosecond()),
	}
	lastSecond.Store(second)
	return second, now.Nanosecond()
}

// appendFraction appends all nine digits of the nanoseconds, and the end of a timestamp in UTC.
func appendFraction(dst []byte, nanosecond int) []byte {
	n := uint32(nanosecond) //nolint:gosec // below 1e9
	digits := [10]byte{9: 'Z'}
	for i := 7; i > 0; i -= 2 {
		digits[i], digits[i+1] = '0'+byte(n/10%10), '0'+byte(n%10)
		n /= 100
	}
	digits[0] = '0' + byte(n) //nolint:gosec // below 10
	return append(dst, digits[:]...)
}

// appendEventID appends an event id in its usual form: 32 digits in five groups.
func appendEventID(dst []byte, id EventID) []byte {
	const hex = "0123456789abcdef"
	var text [36]byte
	for i, b := range id {
		at := idPlaces[i]
		text[at], text[at+1] = hex[b>>4], hex[b&15]
	}
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return append(dst, text[:]...)
}

// idPlaces are where the bytes of an event id begin in its text.
var idPlaces = [16]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// appendString appends s as a JSON string. Nearly every stream id needs no escape.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always has a JSON form
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

package broker

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// A Message is one event, and the line that carries it. The line is rendered once, however many channels the message is
// written to. Make one with [NewMessage], [NewMessageFromJSON], [RestoreMessage] or [RestoreLine]. A Message never changes, and any
// number of goroutines may read it. Two Messages say the same if their lines are equal; a Broker need not return the
// pointer that it was given.
type Message struct {
	id    EventID
	keyed bool
	merge Merge
	extra uint8  // how long the text of the field missed is
	tail  uint8  // how long the line is after the body
	body  uint32 // where the body begins in line
	line  []byte
	at    time.Duration // of the timestamp, on clock.Now
	uses  Uses
}

// Uses counts the channels that hold a message, for a Broker that keeps each message in memory once. Both counters begin
// at zero. They belong to the Broker that the message was published to; nobody else looks at them.
type Uses struct {
	Buffered atomic.Int32 // channels that have the message in their buffer
	Held     atomic.Int32 // channels in which a producer waits for room for it
}

// ErrMessage marks a message that cannot be sent: its stream id is empty, or its text is not UTF-8 or not JSON. The error
// that wraps ErrMessage says what is wrong, in words for the producer.
var ErrMessage = errors.New("invalid message")

// messageOverhead approximates what a message takes beside its line, in bytes.
const messageOverhead = 96

// The parts of a line around the stream id and the body (protocol.md 1.6).
const (
	lineStart = `{"sid":`
	lineEnd   = "}\n"
	// lineFrame stands between the stream id and the body. All its values have a fixed length.
	lineFrame = len(`,"eid":"00000000-0000-0000-0000-000000000000","ts":"2006-01-02T15:04:05.000000000Z","body":`)
	// timeFormat is the format of a timestamp.
	timeFormat = "2006-01-02T15:04:05.000000000Z"
)

// NewMessage renders the message that a producer wrote to streamID. The body is one JSON value of any kind. It reaches the
// consumer as the same text, compacted (protocol.md 1.4). A key makes the write idempotent: the event id is derived from
// it (protocol.md 2.11). An empty key is no key. NewMessage keeps neither the body nor the strings. It fails with
// [ErrMessage].
func NewMessage(streamID string, body []byte, key string) (*Message, error) {
	m := emptyMessage(key)
	line, err := m.begin(streamID, len(body))
	if err != nil {
		return nil, err
	}
	return m.compact(m.appendFrame(line), body)
}

// NewMessageFromJSON is like [NewMessage] for parts that have been checked: streamID is a JSON string that is not empty,
// body a JSON value. If compact is true, the body has no white space between its tokens.
func NewMessageFromJSON(streamID, body []byte, compact bool, key string) (*Message, error) {
	m := emptyMessage(key)
	line := m.appendFrame(append(beginLine(len(streamID), len(body)), streamID...))
	if compact {
		m.body = uint32(len(line)) //nolint:gosec // messages are limited to 1 GiB
		return m.finish(append(line, body...)), nil
	}
	return m.compact(line, body)
}

// A StoredMessage is what a store keeps of a message to make it again with [RestoreMessage].
type StoredMessage struct {
	ID       EventID
	StreamID string
	// Time is when the server accepted the message.
	Time time.Time
	// Keyed tells whether the message was written with an idempotency key. The key itself is not needed: ID is derived
	// from it.
	Keyed bool
	// Merge says how the message may be merged.
	Merge Merge
	// Body is one JSON value.
	Body []byte
}

// RestoreMessage makes a message from what a store kept of it. It says the same as the original. Its line is the same, byte for
// byte, with one exception: if the stream id of a message of [NewMessageFromJSON] has characters outside ASCII, JSON may
// write some of its characters in another way ([RestoreLine] has no exception). RestoreMessage keeps neither the body nor the string. It fails with
// [ErrMessage].
func RestoreMessage(s StoredMessage) (*Message, error) {
	m := &Message{id: s.ID, keyed: s.Keyed, merge: s.Merge, at: clock.At(s.Time)}
	line, err := m.begin(s.StreamID, len(s.Body))
	if err != nil {
		return nil, err
	}
	line = m.appendID(line)
	line = s.Time.UTC().AppendFormat(line, timeFormat)
	return m.compact(append(line, lineBeforeBody...), s.Body)
}

// RestoreLine makes a message from its line ([Message.Line]), for a store that keeps lines. Its line is the same, byte for byte.
// keyed tells whether the message was written with an idempotency key. RestoreLine keeps the line, which nobody may change any
// more. It checks everything but the body. It fails with [ErrMessage].
func RestoreLine(line []byte, keyed bool) (*Message, error) {
	m := &Message{keyed: keyed, line: line, tail: uint8(len(lineEnd))}
	end, err := 0, errNoLine
	if bytes.HasPrefix(line, []byte(lineStart)) {
		end, err = jsontext.StringEnd(line, len(lineStart))
	}
	if err != nil || end == len(lineStart)+len(`""`) || len(line) < end+lineFrame+1+len(lineEnd) {
		return nil, fmt.Errorf("%w: this is no line of a message", ErrMessage)
	}
	id, rest := cutFixed(line[end:], lineBeforeID, 36)
	at, rest := cutFixed(rest, lineBeforeTime, len(timeFormat))
	if !bytes.HasPrefix(rest, []byte(lineBeforeBody)) || !bytes.HasSuffix(line, []byte(lineEnd)) {
		return nil, fmt.Errorf("%w: this is no line of a message", ErrMessage)
	}
	if m.id, err = uuid.ParseBytes(id); err != nil {
		return nil, fmt.Errorf("%w: the line has no event id: %w", ErrMessage, err)
	}
	t, err := time.Parse(timeFormat, string(at))
	if err != nil {
		return nil, fmt.Errorf("%w: the line has no time: %w", ErrMessage, err)
	}
	m.at, m.body = clock.At(t), uint32(end+lineFrame)
	if tail, ok := bytes.CutPrefix(line[m.body:], []byte("null")); ok && endOf(tail) != "" {
		m.tail = uint8(len(tail)) //nolint:gosec // one of two constants
	}
	return m, nil
}

var errNoLine = errors.New("no line")

// cutFixed cuts a value of a fixed size off the front, which a fixed text comes before. Both are nil if it is not there.
func cutFixed(line []byte, before string, size int) (value, rest []byte) {
	rest, ok := bytes.CutPrefix(line, []byte(before))
	if !ok || len(rest) < size {
		return nil, nil
	}
	return rest[:size], rest[size:]
}

func emptyMessage(key string) *Message {
	m := &Message{}
	if key != "" {
		m.id, m.keyed = KeyedEventID(key), true
	}
	return m
}

// begin begins a line with a stream id, with room for a body of so many bytes.
func (m *Message) begin(streamID string, body int) ([]byte, error) {
	if streamID == "" {
		return nil, fmt.Errorf("%w: the stream id is empty", ErrMessage)
	}
	if !utf8.ValidString(streamID) {
		return nil, fmt.Errorf("%w: the stream id is not UTF-8", ErrMessage)
	}
	return jsontext.AppendString(beginLine(len(streamID)+2, body), streamID), nil
}

// beginLine begins a line with room for a stream id, as JSON, and a body of these sizes.
func beginLine(streamID, body int) []byte {
	return append(make([]byte, 0, len(lineStart)+streamID+lineFrame+body+len(lineEnd)), lineStart...)
}

// What stands between the parts of a line.
const (
	lineBeforeID   = `,"eid":"`
	lineBeforeTime = `","ts":"`
	lineBeforeBody = `","body":`
)

// appendFrame appends what stands between the stream id and the body, for a message that is accepted now.
func (m *Message) appendFrame(line []byte) []byte {
	m.at = clock.Now()
	second, nanosecond := clock.Wall(m.at)
	if !m.keyed {
		m.id = newEventID(second.Unix, nanosecond)
	}
	line = m.appendID(line)
	line = append(line, second.Text...)
	line = appendFraction(line, nanosecond)
	return append(line, lineBeforeBody...)
}

func (m *Message) appendID(line []byte) []byte {
	line = append(line, lineBeforeID...)
	line = appendEventID(line, m.id)
	return append(line, lineBeforeTime...)
}

// compact appends the body to the line and finishes the message.
func (m *Message) compact(line, body []byte) (*Message, error) {
	m.body = uint32(len(line)) //nolint:gosec // messages are limited to 1 GiB
	line, err := jsontext.AppendCompact(line, body, 1)
	if err != nil {
		return nil, fmt.Errorf("%w: the body is not JSON: %w", ErrMessage, err)
	}
	return m.finish(line), nil
}

// finish takes the line, which has its body, as the message's. It releases memory that white space in the body has taken.
func (m *Message) finish(line []byte) *Message {
	m.line, m.tail = append(line, lineEnd...), uint8(len(lineEnd))
	if unused := cap(m.line) - len(m.line); unused > messageOverhead && unused > len(m.line)/4 {
		m.line = bytes.Clone(m.line)
	}
	return m
}

// ID returns the message's event id.
func (m *Message) ID() EventID { return m.id }

// Keyed reports whether the message was written with an idempotency key (protocol.md 2.11).
func (m *Message) Keyed() bool { return m.keyed }

// Line returns the message as one line of NDJSON with its line feed (protocol.md 1.6). The bytes are shared: do not change
// them.
func (m *Message) Line() []byte { return m.line }

// JSON returns the JSON object of the message: its line without the line feed. The bytes are shared.
func (m *Message) JSON() []byte { return m.line[:len(m.line)-1] }

// Body returns the message's body, compacted. The bytes are shared.
func (m *Message) Body() []byte { return m.line[m.body : len(m.line)-int(m.tail)] }

// StreamID returns the stream that the message was written to.
func (m *Message) StreamID() string {
	return textOf(m.streamJSON())
}

// textOf returns the text of a JSON string that has been checked.
func textOf(value []byte) string {
	text, _ := jsontext.Text(value)
	return string(text)
}

// Time returns when the server accepted the message, as its line says.
func (m *Message) Time() time.Time {
	end := int(m.body) - len(lineBeforeBody)
	t, _ := time.Parse(timeFormat, string(m.line[end-len(timeFormat):end])) // its own text
	return t
}

// Accepted is [Message.Time] on the clock of internal/clock: monotonic, and cheap to ask for.
func (m *Message) Accepted() time.Duration { return m.at }

// Size is what the message counts toward [Limits].MaxMemory, in bytes.
func (m *Message) Size() int64 { return int64(len(m.line) + messageOverhead) }

// Uses returns the counters of the Broker that holds the message.
func (m *Message) Uses() *Uses { return &m.uses }

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

package broker

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/caddy-megaphone/megaphone/internal/clock"
)

// How a topic ended ([NewEnd]).
const (
	EndDone    = "done"    // its producer has said so
	EndAborted = "aborted" // its producer is gone without a word
)

// NewEnd renders the last line of a topic, which tells its members that no more will come (protocol.md 2.12). how is [EndDone]
// or [EndAborted]. The message's body is null. NewEnd fails with [ErrMessage].
func NewEnd(streamID, how string) (*Message, error) {
	if how != EndDone && how != EndAborted {
		return nil, fmt.Errorf("%w: a topic ends as %q or %q", ErrMessage, EndDone, EndAborted)
	}
	m, err := NewMessage(streamID, []byte("null"), "")
	if err != nil {
		return nil, err
	}
	tail := fmt.Sprintf(endFormat, how)
	m.line = append(m.line[:len(m.line)-len(lineEnd)], tail...)
	m.tail = uint8(len(tail)) //nolint:gosec // one of two constants
	return m, nil
}

// endFormat is what follows the body of an end.
const endFormat = `,"end":"%s"` + lineEnd

// endOf returns how a topic ended, of what follows the body of a line, or "" if the line is no end.
func endOf(tail []byte) string {
	for _, how := range []string{EndDone, EndAborted} {
		if string(tail) == fmt.Sprintf(endFormat, how) {
			return how
		}
	}
	return ""
}

// End returns how the topic ended whose end the message is, or "" if it is none.
func (m *Message) End() string {
	if int(m.tail) == len(lineEnd) {
		return ""
	}
	return endOf(m.line[len(m.line)-int(m.tail):])
}

// Missed returns a copy of the message whose line says that the channel has missed so many messages of its topics before it
// (protocol.md 2.12). If there are none, it returns m. The copy has counters of its own ([Message.Uses]). So a Broker keeps m,
// and gives its reader the copy.
func (m *Message) Missed(missed int) *Message {
	if missed == 0 {
		return m
	}
	text := strconv.AppendInt([]byte(`,"missed":`), int64(missed), 10)
	at := int(m.body) - lineFrame
	line := make([]byte, 0, len(m.line)+len(text))
	line = append(append(append(line, m.line[:at]...), text...), m.line[at:]...)
	return &Message{
		id: m.id, keyed: m.keyed, merge: m.merge, at: m.at, line: line,
		extra: uint8(len(text)), tail: m.tail, body: m.body + uint32(len(text)), //nolint:gosec // a few digits
	}
}

// Again returns a copy of the message with an event id of its own, for a channel that gets it once more while a cursor may still
// show it. The copy has no key.
func (m *Message) Again() *Message {
	second, nanosecond := clock.Wall(clock.Now())
	again := &Message{
		id: newEventID(second.Unix, nanosecond), merge: m.merge, at: m.at, line: bytes.Clone(m.line), extra: m.extra, tail: m.tail, body: m.body,
	}
	at := int(m.body) - lineFrame + len(lineBeforeID)
	appendEventID(again.line[at:at], again.id)
	return again
}

package redis

import (
	"strconv"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A message in Redis is a byte that tells whether it is keyed, its event id, and its line.
const messageHead = 1 + len(broker.EventID{})

// encode returns a message as Redis keeps it.
func encode(m *broker.Message) []byte {
	line, id := m.Line(), m.ID()
	b := make([]byte, messageHead, messageHead+len(line))
	if m.Keyed() {
		b[0] = 1
	}
	copy(b[1:], id[:])
	return append(b, line...)
}

// decodeMessage makes a message from what Redis keeps of it.
func decodeMessage(s string) (*broker.Message, error) {
	if len(s) < messageHead {
		return nil, errData
	}
	return broker.RestoreLine([]byte(s[messageHead:]), s[0] == 1)
}

// keyOf returns what a channel remembers of the idempotency key of a message, as Redis keeps it, or nothing if it has none. It is
// keyOf of lua/state.lua.
func keyOf(m string) string {
	if m[0] != 1 {
		return ""
	}
	return keyOfID(m[1:messageHead])
}

// keyOfID returns keyOf a keyed message with this event id.
func keyOfID(id string) string {
	b := strconv.AppendUint(make([]byte, 0, 20), number(id[:4])&(1<<28-1), 10)
	low := strconv.AppendUint(make([]byte, 0, 20), 1e10+number(id[4:8]), 10)
	return string(append(b, low[1:]...)) // ten digits
}

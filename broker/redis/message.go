package redis

import (
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

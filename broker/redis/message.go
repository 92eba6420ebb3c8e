package redis

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
)

// A message in Redis is a byte that tells whether it is keyed and how it may be merged, its event id, and its line.
const messageHead = 1 + len(broker.EventID{})

// mergeHead is how much longer the beginning of a message that may be merged is, on its way to Redis: see lua/merge.lua.
const mergeHead = 4 + 4 + 12

// encode returns a message as the scripts take it. maxBody is how large the body of a merged message may be.
func encode(m *broker.Message, maxBody int64) []byte {
	line, id := m.Line(), m.ID()
	b := make([]byte, messageHead, messageHead+mergeHead+len(line))
	b[0] = byte(m.Merge()) << 1
	if m.Keyed() {
		b[0] |= 1
	}
	copy(b[1:], id[:])
	if m.Merge() != broker.MergeNone {
		body := messageHead + len(line) - len("}\n") - len(m.Body()) + 1 // Lua counts from 1
		b = binary.LittleEndian.AppendUint32(b, uint32(body))            //nolint:gosec // messages are limited to 1 GiB
		b = binary.LittleEndian.AppendUint32(b, uint32(max(0, min(maxBody, 1<<30))))
		stream := sha256.Sum256([]byte(m.StreamID()))
		b = append(b, stream[:12]...)
	}
	return append(b, line...)
}

// A delivery is a message as a channel has it.
type delivery struct {
	*broker.Message

	size  uint32        // what it counts
	since time.Duration // when the channel has got it, on clock.Now, if that is not when it was accepted
}

// What stands between the beginning of a message and its line: see lua/marks.lua.
const (
	hasMissed, missedSize = 8, 4
	hasSince, sinceSize   = 16, 5
)

// decodeMessage makes a message from what Redis keeps of it.
func decodeMessage(s string) (d delivery, err error) {
	if len(s) < messageHead+missedSize+sinceSize {
		return d, errData
	}
	d.size = uint32(len(s) - messageHead + messageOverhead) //nolint:gosec // a message is smaller than 4 GB
	first, line, missed := s[0], s[messageHead:], 0
	how := broker.Merge(first >> 1 & 3)
	if how > broker.MergeAppend {
		return d, errData
	}
	if first&hasMissed != 0 {
		missed, line = int(number(line[:missedSize])), line[missedSize:] //nolint:gosec // 4 bytes
	}
	if first&hasSince != 0 {
		d.since, line = clock.At(timeOf(number(line[:sinceSize]))), line[sinceSize:]
	}
	m, err := broker.RestoreLine([]byte(line), first&1 == 1)
	if err != nil {
		return d, err
	}
	d.Message = m.WithMerge(how).Missed(missed)
	return d, nil
}

// keyOf returns what a channel remembers of the idempotency key of a message, as Redis keeps it, or nothing if it has none. It is
// keyOf of lua/state.lua.
func keyOf(m string) string {
	if m[0]&1 == 0 {
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

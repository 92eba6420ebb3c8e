package redis

import (
	"encoding/binary"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// stateSize is the size of the packed part of a channel's state: see lua/state.lua.
const stateSize = 71

// Flags of a channel.
const (
	flagReader  = 1
	flagFollows = 2
	flagAcks    = 4
	flagClient  = 8
)

// epoch is the zero of times in Redis, which are milliseconds.
var epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func timeOf(ms uint64) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) } //nolint:gosec // 5 bytes

// A channelState is a channel's state as Redis has it.
type channelState struct {
	head, length, inFlight, held uint64
	flags                        byte
	created, read, ttl           uint64
	agent                        string
}

func parseState(s string) (c channelState, ok bool) {
	if len(s) < stateSize {
		return c, false
	}
	c = channelState{
		head: number(s[0:6]), length: number(s[6:9]), inFlight: number(s[9:12]), held: number(s[15:18]), flags: s[36],
		created: number(s[53:58]), read: number(s[58:63]), ttl: number(s[63:68]), agent: s[stateSize:],
	}
	if c.flags&flagClient != 0 {
		if len(c.agent) < 8 {
			return c, false
		}
		c.agent = c.agent[8:]
	}
	return c, true
}

func (c *channelState) state() broker.State {
	s := broker.State{
		Connected:     c.flags&flagReader != 0,
		Pending:       int(c.length - c.inFlight), //nolint:gosec // 3 bytes
		InFlight:      int(c.inFlight),            //nolint:gosec // 3 bytes
		HeldProducers: int(c.held),                //nolint:gosec // 3 bytes
		Created:       timeOf(c.created),
	}
	if c.read != 0 {
		s.LastRead = timeOf(c.read)
	}
	if !s.Connected {
		s.Expires = timeOf(max(c.created, c.read) + c.ttl)
	}
	return s
}

// number reads a number in little-endian order.
func number(s string) (n uint64) {
	for i := len(s) - 1; i >= 0; i-- {
		n = n<<8 | uint64(s[i])
	}
	return n
}

// appendNumber appends the lowest bytes of a number in little-endian order.
func appendNumber(dst []byte, n uint64, size int) []byte {
	var all [8]byte
	binary.LittleEndian.PutUint64(all[:], n)
	return append(dst, all[:size]...)
}

// numbers packs numbers as struct.unpack in the scripts expects them.
type packer []byte

func (p packer) put(size int, n int64) packer {
	limit := int64(1)<<(8*min(size, 7)-1)<<1 - 1
	return appendNumber(p, uint64(min(max(n, 0), limit)), size) //nolint:gosec // not negative
}

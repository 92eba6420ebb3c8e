package broker

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/google/uuid"
)

// EventID names a message, in all channels that it was written to (protocol.md 1.6). It is a UUID: version 7
// for a message without a key, version 5 of the key for one with (protocol.md 2.11).
type EventID = uuid.UUID

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

package broker

import "time"

// An EndReason says why a channel was deleted.
type EndReason int

const (
	// EndExpired means that nobody has read the channel for too long.
	EndExpired EndReason = iota
	// EndDeleted means that a call deleted it.
	EndDeleted
	// EndClosed means that the Broker was closed.
	EndClosed
	// EndReasonCount is how many reasons there are.
	EndReasonCount
)

// EndReasons are all reasons.
var EndReasons = [EndReasonCount]EndReason{EndExpired, EndDeleted, EndClosed}

// String returns the reason's name in metrics, events and logs.
func (e EndReason) String() string { return [...]string{"expired", "deleted", "closed"}[e] }

// A Histogram counts durations by their size.
type Histogram struct {
	// Bounds are upper bounds, in order.
	Bounds []time.Duration
	// Cumulative says, for each of Bounds, how many durations were at most as long.
	Cumulative []uint64
	// Count is how many durations there were, and Sum is their sum.
	Count uint64
	Sum   time.Duration
}

// Stats is what happened in a [Broker] since it was made, and what it holds now. The counters add up: a message that was
// accepted is settled, undelivered, or still held.
type Stats struct {
	// Channels is how many channels there are, and Readers how many of them have a reader. HeldProducers is in how many
	// calls a producer waits for room in a channel.
	Channels, Readers, HeldProducers int
	// Pending and InFlight count the messages that channels hold.
	Pending, InFlight uint64
	// BufferedBytes is what the messages in channels take, and HeldBytes what the messages take that wait for room. A
	// message in many channels counts once, unless the Broker keeps a copy of it in each.
	BufferedBytes, HeldBytes int64

	// Accepted counts messages that a channel has taken. Duplicates counts those that a channel dropped, because it had
	// one with the same key.
	Accepted, Duplicates uint64
	// Sent counts messages that a reader was given. Redelivered counts those that a reader had been given before.
	Sent, Redelivered uint64
	// RefusedFull counts messages that were refused because their channel stayed full. RefusedMemory counts those that
	// were refused because the memory for messages was used up.
	RefusedFull, RefusedMemory uint64
	// Unroutable counts messages that were written to a channel that did not exist, or was deleted while they waited for
	// room. A message to three such channels counts three times.
	Unroutable uint64
	// Withdrawn counts messages that waited for room until their producer gave up, or until the Broker was closed.
	Withdrawn uint64
	// Settled counts messages that were let go as received.
	Settled uint64
	// Undelivered counts messages that were let go with their channel.
	Undelivered [EndReasonCount]uint64
	// Replaced and Appended count accepted messages that were merged into another one (protocol.md 2.13): it is no longer there,
	// or has become a part of the later one. Each counts as accepted, and the one that remains as settled or undelivered.
	Replaced, Appended uint64
	// Topics is how many topics there are, Memberships how many members all have together, and KeptBytes what topics keep.
	Topics, Memberships int
	KeptBytes           int64
	// Published counts messages that were published to topics, and Skipped how often a member has missed one of them because it
	// had no room. Such a message counts neither as received nor as refused by the channel.
	Published, Skipped uint64
	// Created and Deleted count channels.
	Created uint64
	Deleted [EndReasonCount]uint64

	// PublishWait is how long accepted messages waited for room. Most did not wait.
	PublishWait Histogram
	// DeliveryDelay is the time from a message's timestamp until a reader was given it for the first time. For a kept message
	// of a topic it is the time since the channel joined.
	DeliveryDelay Histogram
	// ChannelLife is how long deleted channels had lived. Metrics under the names of the original Megaphone need the bounds
	// 80 s, 160 s and so on, doubled up to 20480 s, and leave out those that are missing.
	ChannelLife Histogram
}

// Received is how many messages were written to channels that existed, whatever became of them: accepted, dropped as
// duplicates, refused or withdrawn. A message that still waits for room counts when it no longer waits.
func (s *Stats) Received() uint64 {
	return s.Accepted + s.Duplicates + s.RefusedFull + s.RefusedMemory + s.Withdrawn
}

// AllDeleted is the sum of Deleted.
func (s *Stats) AllDeleted() (n uint64) {
	for _, count := range s.Deleted {
		n += count
	}
	return n
}

// AllUndelivered is the sum of Undelivered.
func (s *Stats) AllUndelivered() (n uint64) {
	for _, count := range s.Undelivered {
		n += count
	}
	return n
}

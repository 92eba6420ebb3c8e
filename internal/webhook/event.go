// Package webhook posts channel events to a URL. Requests are signed, queued, batched and repeated as the Standard Webhooks
// specification says (protocol.md 2.7, docs/webhooks.md).
//
// The package knows nothing of Caddy and of configurations except [Settings]. It knows the names of the events, which are
// those of Caddy's events too.
package webhook

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// The names of events (protocol.md 2.7). Caddy's events have "megaphone." before them.
const (
	ChannelCreated     = "channel_created"
	ChannelDeleted     = "channel_deleted"
	ChannelWaiting     = "channel_waiting"
	ReaderConnected    = "reader_connected"
	ReaderDisconnected = "reader_disconnected"
	TopicOccupied      = "topic_occupied"
	TopicVacated       = "topic_vacated"
)

// EventNames are the names of all events. Do not change it.
var EventNames = []string{
	ChannelCreated, ChannelDeleted, ChannelWaiting, ReaderConnected, ReaderDisconnected, TopicOccupied, TopicVacated,
}

// An Event is something that happened to a channel, or to a topic. Its name says what. The fields that do not concern this name are not
// set.
type Event struct {
	// Channel is the consumer address of the channel.
	Channel string
	// Topic is the name of the topic that has got its first member, or lost its last one. Then there is no Channel.
	Topic string
	// At is when it happened.
	At time.Time

	// Reason says why a channel was deleted.
	Reason broker.EndReason
	// Undelivered is how many messages a deleted channel held.
	Undelivered int

	// Transport is the transport of a reader that has connected or disconnected.
	Transport string
	// EndedBy says why a reader has disconnected.
	EndedBy string
	// Messages is how many messages a reader was sent until it disconnected, or how many wait in a channel that nobody reads.
	Messages int
	// Since is since when these wait.
	Since time.Time
}

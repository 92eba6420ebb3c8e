package webhook

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// The names of what is announced (protocol.md 2.7). Caddy's events have "megaphone." before them.
const (
	ChannelCreated     = "channel_created"
	ChannelDeleted     = "channel_deleted"
	ReaderConnected    = "reader_connected"
	ReaderDisconnected = "reader_disconnected"
)

var EventNames = []string{ChannelCreated, ChannelDeleted, ReaderConnected, ReaderDisconnected}

// A Event is one thing to announce.
type Event struct {
	Channel     string // its consumer address
	At          time.Time
	Reason      broker.EndReason // of a deletion
	Undelivered int              // of a deletion
	Transport   string           // of a reader
	EndedBy     string           // of a reader that has left
	Messages    int              // that it was sent
}

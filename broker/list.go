package broker

import (
	"errors"
	"time"
)

// A ChannelInfo is what operators may know of a channel.
type ChannelInfo struct {
	// ID names the channel to operators for as long as it lives, and never names another. It is not a secret: no endpoint
	// of a site accepts it.
	ID string

	Addresses
	State
}

// ListOptions say which channels a page lists.
type ListOptions struct {
	// After is the Next of the page before, or empty for the first page.
	After string
	// Limit is how many channels a page has at most. At least 1.
	Limit int

	// Agent, if not empty, lists only channels whose addresses begin with it.
	Agent string
	// Connected, if not nil, lists only channels that have a reader, or only those that have none.
	Connected *bool
	// MinAge lists only channels that were created at least so long ago.
	MinAge time.Duration
	// MinPending lists only channels with at least so many pending messages.
	MinPending int
}

// A ChannelPage is a part of the list of all channels.
type ChannelPage struct {
	Channels []ChannelInfo
	// Next is where the list goes on. It is empty at the end.
	Next string
}

// ErrCursor marks a cursor that no page of the list of channels has returned.
var ErrCursor = errors.New("this is no cursor of a list of channels")

package megaphone

import (
	"context"
	"errors"
	"time"
)

// A Broker keeps channels and their messages. It is all that the HTTP handlers know of them: [Registry] keeps
// them in this process's memory, and another Broker may keep them in a store that several servers share. The
// package brokertest states this contract as tests.
//
// All methods may be called at once from many goroutines. What a call needs to know of the configuration it is
// made for travels with it as [Limits], so a Broker lives on when a configuration is replaced.
//
// Errors are the sentinels of this package, wrapped or not; any other error is a fault of the Broker.
// A malformed address, one of the wrong kind, and one of a channel that has expired are all [ErrNotFound].
//
// Order: the messages of one Publish or PublishBatch stand in a channel in their order, and those of one
// producer that waits for each reply in the order of its calls. Every consumer is sent them in that order.
type Broker interface {
	// Create makes a channel and returns its addresses. Its life is counted from now on. It fails with
	// [ErrChannelLimit] when there are l.MaxChannels already, with [ErrClientLimit] when l.Client has
	// l.MaxChannelsPerClient of them, and with [ErrDraining] while the Broker is drained.
	Create(ctx context.Context, agent string, l Limits) (Addresses, error)

	// Publish appends m to the channel of a producer address. It returns nil once the channel holds the message,
	// and when m is a repeat, which is dropped: a keyed message whose first writing the channel holds, or has let go
	// when fewer than [KeyWindow] keyed ones were let go since. A later repeat is taken as a new message.
	//
	// While the channel holds l.Buffer pending messages, and while the memory for messages is used up, Publish
	// waits, first come first served for each channel, at most l.Hold. Then it fails with [ErrTimeout] or,
	// if it was for want of memory, [ErrMemoryLimit]. It fails with [ErrNotFound] when the channel is deleted
	// meanwhile, with the error of ctx when that ends, and with [ErrClosed] when the Broker closes. A message
	// whose Publish failed is in no channel, and never will be.
	Publish(ctx context.Context, producer string, m *Message, l Limits) error

	// PublishNow does what Publish does if that needs no wait, no error, and no other machine, and reports whether. If
	// not, nothing has happened, and Publish is to be called.
	PublishNow(producer string, m *Message, l Limits) bool

	// PublishBatch appends all messages to each of the channels, as Publish does. The channels proceed side by side, and
	// all share one l.Hold. The result has an [Outcome] for each producer address, in their order; a repeat counts as
	// accepted.
	PublishBatch(ctx context.Context, producers []string, ms []*Message, l Limits) []Outcome

	// Ingest begins a stream of writes to many channels. The caller must call Finish.
	Ingest(l Limits) Ingestion

	// Subscribe makes the caller the channel's one reader. It fails with [ErrBusy] when there is another,
	// unless o.TakeOver is set, and with [ErrReaderLimit] when o.MaxReaders channels are being read already; who
	// takes over is let in. It settles what the cursor shows; what is in flight then will be sent again.
	// The caller must call End.
	Subscribe(ctx context.Context, consumer string, o SubscribeOptions) (Subscription, error)

	// State returns the state of the channel that an address of either kind names, or [ErrNotFound].
	State(ctx context.Context, address string) (State, error)

	// Delete removes the channel that an address of either kind names. Its reader's subscription is over, its
	// waiting producers get [ErrNotFound], and what it holds counts as undelivered.
	Delete(ctx context.Context, address string) error

	// List returns a page of the list of all channels, for operators. Who goes from page to page by
	// [ChannelPage].Next, until that is empty, gets each channel once that lives all the while and is as the options
	// say; those that are created, deleted or changed meanwhile may be missing. A page may have fewer channels
	// than the limit, even none, without being the last: a call does a bounded amount of work, however many
	// channels there are, and holds up no other call. It fails with [ErrCursor].
	List(ctx context.Context, o ListOptions) (ChannelPage, error)

	// Find returns what operators are told of the channel that an id, or an address of either kind, names.
	Find(ctx context.Context, name string) (ChannelInfo, error)

	// Peek returns the oldest messages, up to limit, of the channel that an address of either kind names. Nothing
	// changes by that.
	Peek(ctx context.Context, address string, limit int) ([]*Message, error)
}

// A Subscription is the one reader's hold on a channel. Settle may be called from any goroutine; the other
// methods are for one goroutine at a time.
//
// A message is pending until Take returns it, then in flight until it is settled or leaves the window of
// [Limits].InFlight messages. It leaves the window when there is no place for a newer one, and never before it
// is known to have been received. So when the reader neither reports receipt nor settles, Take returns no more.
//
// After the subscription is over (Done), and after End, all methods are without effect on the channel, which may
// have another reader by then.
type Subscription interface {
	// Ready receives a value when there may be something to take: when a message has come, when Received or Settle
	// has made room in a full window, when the last Take has left something behind for want of space, and at the
	// beginning if something is held. So a reader calls Take once for each value. Values do not add up.
	Ready() <-chan struct{}

	// Take appends to dst the next messages in the channel's order and marks them in flight: first those that
	// were in flight when the subscription began, then pending ones. It never waits. It returns as many as are
	// there, but none after their lines have reached maxBytes together. Full tells that there is more, which the
	// window does not let out until Received or Settle makes room.
	Take(dst []*Message, maxBytes int) (ms []*Message, full bool)

	// Received reports that the first n messages that Take has returned, counted over the whole subscription,
	// have reached the client's machine. They may leave the window.
	Received(n int)

	// Settle lets go everything in flight up to and including the message, and reports whether it was found. The
	// first call makes the reader an acknowledging one, and the channel one that follows cursors (protocol.md
	// 2.1, 2.4): from then on nothing leaves the window that is not settled.
	Settle(id EventID) bool

	// Drained reports that the channel takes no more messages, because its server is being drained, and that Take has
	// returned all that it holds: the reader should end soon, cleanly. Ready tells of it. A Broker whose channels
	// other servers serve as well need not ever report it.
	Drained() bool

	// Resume tells how the read resumes from its cursor.
	Resume() Resume

	// Done is closed when the subscription is over for another reason than End; Err then tells the reason:
	// [ErrNotFound] for a channel that was deleted, [ErrTakenOver], or [ErrClosed].
	Done() <-chan struct{}
	Err() error

	// End gives the channel free for the next reader. With [EndClean] what is received is settled, unless the
	// channel follows cursors; with [EndFault] nothing is. It may be called more than once; the first call
	// counts.
	End(how End)
}

// A Notifier is a [Subscription] that can call a function instead of sending on a channel, so that its reader needs no
// goroutine while it waits. A Subscription need not be one.
type Notifier interface {
	Subscription

	// Notify makes the subscription call f once, in a goroutine of its own, when Ready has a value or Done is closed.
	// If that is so already, it returns false, and f is not called. What was given by an earlier Notify is forgotten,
	// unless its call has begun: so f may be called when its reader has found out by itself.
	Notify(f func()) bool
}

// Errors of a [Broker]. None of them is a fault.
var (
	ErrNotFound     = errors.New("no such channel")
	ErrBusy         = errors.New("another consumer is reading")
	ErrTimeout      = errors.New("the channel stayed full")
	ErrSkipped      = errors.New("an earlier message for the channel was refused")
	ErrTakenOver    = errors.New("another consumer has taken over")
	ErrChannelLimit = errors.New("too many channels")
	ErrClientLimit  = errors.New("too many channels of one client")
	ErrReaderLimit  = errors.New("too many readers")
	ErrMemoryLimit  = errors.New("the memory for messages is used up")
	ErrDraining     = errors.New("the server is being drained")
	ErrClosed       = errors.New("the broker is closed")
)

// Limits is what a configuration sets for the channels, as it applies to one call.
type Limits struct {
	// Buffer is the number of pending messages that a channel holds before producers wait. At least 1.
	Buffer int
	// InFlight is the number of messages in the in-flight window. At least 1.
	InFlight int
	// Hold is how long a producer waits for room; 0 means not at all.
	Hold time.Duration
	// TTL is the life of a channel that nobody reads.
	TTL time.Duration
	// MaxChannels is the number of channels beyond which none is created.
	MaxChannels int
	// MaxMemory is the number of bytes of messages, in all channels together, beyond which producers wait.
	MaxMemory int64
	// MaxReaders is the number of channels that may be read at once; 0 means all.
	MaxReaders int
	// MaxChannelsPerClient is the number of live channels that may have been created for one client; 0 means any
	// number.
	MaxChannelsPerClient int
	// Client tells for whom a channel is created, if that is limited. It is any text; empty means nobody.
	Client string
}

// Addresses are the two halves of a channel (protocol.md 1.1). Both are secrets.
type Addresses struct {
	Producer, Consumer string
}

// An Outcome says what became of a batch in one channel.
type Outcome struct {
	// Accepted is how many of the messages the channel has taken, counted from the first.
	Accepted int
	// Err says why it has not taken the next one, as Publish would; nil if it has taken all.
	Err error
}

// SubscribeOptions say how a read begins.
type SubscribeOptions struct {
	Limits

	// Follow tells that the reader knows of cursors, and makes the channel one that follows them
	// (protocol.md 2.1): a clean end then settles nothing.
	Follow bool
	// After is the cursor: the last event that the consumer has, or empty.
	After string
	// TakeOver ends the present reader's subscription instead of failing with [ErrBusy].
	TakeOver bool
	// Acknowledged makes the reader an acknowledging one from the start: it is never sent more than the window
	// holds, and nothing leaves the window that is not settled.
	Acknowledged bool
	// MayAcknowledge does the same if an earlier reader of the channel has acknowledged. Otherwise messages would leave
	// the window between the beginning of the read and its first acknowledgement, which a client that loses its
	// connection meanwhile would never see.
	MayAcknowledge bool
}

// Resume tells how a read resumes from its cursor (protocol.md 2.2).
type Resume string

const (
	// ResumeNone means that the read showed no cursor.
	ResumeNone Resume = ""
	// ResumeComplete means that every message after the cursor is still held.
	ResumeComplete Resume = "complete"
	// ResumeGap means that messages after the cursor may have been let go.
	ResumeGap Resume = "gap"
)

// End is how a read ended.
type End int

const (
	// EndClean is an end that the client has seen, as far as is known.
	EndClean End = iota
	// EndFault is any other: the connection broke, or a write failed or timed out.
	EndFault
)

// State is what there is to know of a channel, beside its messages.
type State struct {
	// Connected tells whether the channel has a reader now.
	Connected bool
	// Pending and InFlight count the messages it holds.
	Pending, InFlight int
	// Created is when it was created, LastRead when the last read began or, if there is none now, ended; zero if it was never read.
	Created, LastRead time.Time
	// Expires is when it will be deleted if no read begins; zero while there is a reader.
	Expires time.Time
}

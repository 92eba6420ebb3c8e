// Package broker is the contract between Megaphone and whatever keeps its channels. A [Broker] keeps channels and their
// messages. The other types are what Megaphone and a Broker exchange: messages, addresses, limits, errors, and what
// operators may see. The doc comments hold the whole contract; the sections of protocol.md that they name are those of
// docs/protocol.md.
//
// The package imports neither Caddy nor net/http. Nor does a Broker need to.
//
// Package memory has the Broker that Megaphone uses by default. A guest module provides another one: it is a Caddy module
// in the namespace megaphone.brokers that implements [Provider]. Megaphone loads the module that the setting broker
// names, and asks it for the Broker. Package brokertest runs the contract as tests against any Broker.
package broker

import (
	"context"
	"errors"
	"time"
)

// A Broker keeps channels and their messages. It is all that handlers, the admin API, metrics and events know of
// channels. Package memory has the Broker in this process's memory; other Brokers may keep channels in a store that
// several servers share. Package brokertest is this contract as tests.
//
// Any number of goroutines may call all methods at once. Settings travel with a call as [Limits], so a Broker lives on
// when a configuration is replaced, and calls of two configurations may overlap.
//
// Addresses: Create returns two addresses made of 16 secret bytes each ([FormatAddress], protocol.md 1.1). A malformed
// address, one of the wrong kind, and one of a channel that has expired are all [ErrNotFound].
//
// Order: a channel holds the messages of one Publish or PublishBatch in the order given. A producer that waits for each
// reply has its messages in the order of its calls. Every consumer is sent messages in the channel's order.
//
// Messages: a Broker may return another [Message] than it was given, with an equal line. It may fetch messages ahead of
// Take.
//
// Merging (protocol.md 2.13): where a message would be put behind a pending one with which it may be merged
// ([Message.CanMerge]), the channel holds what they become ([Message.MergeWith]) in its place. So nothing that is in flight
// changes, and the order holds. A message that is merged needs no room in the buffer, but room in memory as any other. It counts
// as accepted. The message that is no longer there counts as let go, so a repeat of it is dropped, but it was never sent, so no
// cursor shows it. While a reader waits for messages, or has them fetched ahead, a Broker may leave messages as they are.
//
// Errors are the sentinels of this package, wrapped or not. Any other error is a fault of the Broker, and the channel is
// as if the call had not been made. If that is not known, the error is [ErrOutcomeUnknown].
//
// What only some Brokers can do is an optional interface: [Starter], [HealthChecker], [Keeper], [Drainer], [Statser],
// [DeletionSource], [WaitingSource], [MemoryUser], [Topics], and [Notifier] for a Subscription. Callers find it by assertion and do without where it
// is missing.
type Broker interface {
	// Create makes a channel and returns its addresses. Its life is counted from now on. It fails with
	// [ErrChannelLimit] if there are l.MaxChannels already, with [ErrClientLimit] if l.Client has
	// l.MaxChannelsPerClient of them, and with [ErrDraining] while the Broker drains.
	Create(ctx context.Context, agent string, l Limits) (Addresses, error)

	// Publish appends m to the channel of a producer address. It returns nil once the channel holds the message.
	//
	// It also returns nil if m is a duplicate, which it drops: a keyed message with the id of one that the channel holds,
	// or has let go when fewer than [KeyWindow] keyed messages were let go since. A later duplicate counts as a new message.
	//
	// While the channel holds l.Buffer pending messages, and while the memory for messages is used up, Publish waits at
	// most l.Hold, first come first served for each channel. Then it fails with [ErrTimeout], or with [ErrMemoryLimit] if
	// memory was what it waited for. A message that is merged with the newest pending one does not wait, unless others wait
	// before it. If the messages that wait take too much memory already, it fails with ErrMemoryLimit at
	// once. It fails with [ErrNotFound] if the channel is deleted meanwhile, with the error of ctx if that ends, and with
	// [ErrClosed] if the Broker closes. If Publish fails, the message is in no channel and never will be, unless the error
	// is [ErrOutcomeUnknown].
	Publish(ctx context.Context, producer string, m *Message, l Limits) error

	// PublishNow does what Publish does, merging too, if that needs no wait, no other machine and ends without an error. It reports
	// whether it did. If it returns false, nothing has happened, and the caller must call Publish. A Broker may always
	// return false.
	PublishNow(producer string, m *Message, l Limits) bool

	// PublishBatch appends all messages to each of the channels, as Publish does. Channels proceed side by side and share
	// one l.Hold. Messages of the batch are merged with each other as with those before. The result has an [Outcome] for each producer address, in their order. A duplicate counts as accepted.
	PublishBatch(ctx context.Context, producers []string, ms []*Message, l Limits) []Outcome

	// Ingest begins a stream of writes to many channels. The caller must call Finish.
	Ingest(l Limits) Ingestion

	// Subscribe makes the caller the channel's one reader. It fails with [ErrBusy] if there is another, unless
	// o.TakeOver is set. It fails with [ErrReaderLimit] if o.MaxReaders channels have a reader already; a reader that takes
	// over is always let in. Subscribe settles what the cursor shows. Messages that are in flight then will be sent
	// again. A Subscribe that fails settles nothing. The caller must call End.
	Subscribe(ctx context.Context, consumer string, o SubscribeOptions) (Subscription, error)

	// State returns the state of the channel that an address of either kind names, or [ErrNotFound].
	State(ctx context.Context, address string) (State, error)

	// Delete removes the channel that an address of either kind names. Its reader's subscription is over, its waiting
	// producers get [ErrNotFound], and the messages that it holds count as undelivered. If it fails with [ErrStorage], the
	// channel is as before.
	Delete(ctx context.Context, address string) error

	// List returns a page of all channels that match the options. A caller that follows [ChannelPage].Next until it is
	// empty sees every channel exactly once that exists and matches all the while. Channels that are created, deleted or
	// changed meanwhile may be missing. A page may have fewer channels than the limit, even none, without being the last.
	// A call does a bounded amount of work, however many channels there are, and delays no other call. It fails with
	// [ErrCursor].
	List(ctx context.Context, o ListOptions) (ChannelPage, error)

	// Find returns what operators may know of the channel that an id, or an address of either kind, names. It fails with
	// [ErrNotFound].
	Find(ctx context.Context, name string) (ChannelInfo, error)

	// Peek returns the oldest messages, at most limit, of the channel that an address of either kind names. It changes
	// nothing. It fails with [ErrNotFound].
	Peek(ctx context.Context, address string, limit int) ([]*Message, error)

	// Close ends every subscription and every wait with [ErrClosed]. After it, all calls fail with ErrClosed. Closing again
	// has no effect.
	Close()
}

// A Subscription is the one reader's hold on a channel. Any goroutine may call Settle. The other methods are for one
// goroutine at a time.
//
// A message is pending until Take returns it. Then it is in flight, until it is settled or leaves the window of
// [Limits].InFlight messages. It leaves the window only when a newer message needs its place, and never before it is
// known to have been received. So if the reader neither reports receipt nor settles, Take stops returning messages.
//
// When the subscription is over (Done), and after End, no method has an effect on the channel: it may have another reader. One
// exception: if the Broker closes, Received and End may still tell a Broker whose channels outlive it what the reader has. That
// is in vain unless it comes at once.
type Subscription interface {
	// Ready receives a value when there may be something to take: when a message arrives, when Received or Settle makes
	// room in a full window, when the last Take left messages behind because of maxBytes, and at the start if the channel
	// holds something. So a reader calls Take once for each value. Values do not add up.
	Ready() <-chan struct{}

	// Take appends the next messages to dst, in the channel's order, and marks them in flight. First come those that were
	// in flight when the subscription began, then pending ones. Take never waits. It returns all that are there, but stops
	// once their lines have reached maxBytes together. If full is true, there are more, and the window does not let them
	// out until Received or Settle makes room.
	Take(dst []*Message, maxBytes int) (ms []*Message, full bool)

	// Received reports that the first n messages that Take returned, counted over the whole subscription, have reached the
	// client's machine. They may leave the window.
	Received(n int)

	// Settle settles everything in flight up to and including the message, and reports whether it found the message. The
	// first call makes the reader an acknowledging one, and makes the channel follow cursors (protocol.md 2.1, 2.4): from
	// then on a message leaves the window only by being settled. A store elsewhere may learn of it a moment later: if the
	// channel is deleted or taken over before, the messages count as undelivered, or are sent again.
	Settle(id EventID) bool

	// Drained reports that the channel takes no more messages because its server drains, and that Take has returned all
	// that it holds. The reader should end soon, cleanly. Ready reports the change. A Broker whose channels other servers
	// serve too may always return false.
	Drained() bool

	// Resume tells how the read resumes from its cursor.
	Resume() Resume

	// Done is closed when the subscription is over for another reason than End. Then Err returns the reason: [ErrNotFound]
	// if the channel was deleted, [ErrTakenOver], or [ErrClosed].
	Done() <-chan struct{}
	Err() error

	// End frees the channel for the next reader. [EndClean] settles what was received, unless the channel follows cursors.
	// [EndUnconfirmed] settles what was received then and had been received before, in an earlier read that ended so; see
	// [SubscribeOptions].Redeliver for the rest. In a channel that follows cursors it settles nothing, and nor does
	// [EndFault] anywhere. Only the first call counts.
	End(how End)
}

// Errors of a [Broker]. None of them is a fault, except ErrStorage, ErrOutcomeUnknown and ErrUnavailable. Every call may fail
// with ErrStarting until a [Starter] has started, and every call that would write to a storage with ErrStorage.
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
	ErrStarting     = errors.New("the channels are still being loaded")
	ErrStorage      = errors.New("the storage takes no writes now")
	ErrClosed       = errors.New("the broker is closed")

	// ErrOutcomeUnknown marks a fault that hides whether a call was done, such as a store that did not answer in time. The
	// caller may repeat it, and a producer a write that has a key.
	ErrOutcomeUnknown = errors.New("it is not known whether the request was done")

	// ErrUnavailable marks a fault that passes, such as a store that does not answer, or refuses for now. The call has
	// changed nothing and may be repeated. The Broker tells the log.
	ErrUnavailable = errors.New("the store of channels is not available")
)

// Limits is what a configuration sets for channels, as it applies to one call.
type Limits struct {
	// Buffer is the number of pending messages that a channel holds before producers wait. At least 1.
	Buffer int
	// InFlight is the size of the in-flight window, in messages. At least 1.
	InFlight int
	// Hold is how long a producer waits for room; 0 means not at all.
	Hold time.Duration
	// TTL is how long a channel lives that nobody reads.
	TTL time.Duration
	// ChannelTTL, if not 0, is a TTL of its own for a channel that is created. It holds for the channel's whole life, whatever
	// TTL later calls have.
	ChannelTTL time.Duration
	// MaxMessage is how many bytes the body of a merged message may have (protocol.md 2.13).
	MaxMessage int64
	// MaxTopics is of how many topics a channel may be a member.
	MaxTopics int
	// TopicKeep is the memory of topics for which nobody has set another ([Topics].KeepTopic).
	TopicKeep Keep
	// MaxChannels is how many channels there may be.
	MaxChannels int
	// MaxMemory is how many bytes of messages all channels together hold before producers wait.
	MaxMemory int64
	// MaxReaders is how many channels may have a reader at once; 0 means all.
	MaxReaders int
	// MaxChannelsPerClient is how many live channels may have been created for one client; 0 means any number.
	MaxChannelsPerClient int
	// Client says for whom a channel is created, if that is limited. It is any text; empty means nobody.
	Client string
}

// An Outcome says what became of a batch in one channel.
type Outcome struct {
	// Accepted is how many of the messages the channel has taken, counted from the first. If Err is [ErrOutcomeUnknown], it may
	// have taken more.
	Accepted int
	// Err says why it has not taken the next one, as Publish would. It is nil if the channel has taken all.
	Err error
}

// SubscribeOptions say how a read begins.
type SubscribeOptions struct {
	Limits

	// Follow says that the reader knows of cursors. It makes the channel follow cursors (protocol.md 2.1): from then on a
	// clean end settles nothing.
	Follow bool
	// After is the cursor: the last event that the consumer has, or empty.
	After string
	// TakeOver ends the present reader's subscription instead of failing with [ErrBusy].
	TakeOver bool
	// Acknowledged makes the reader an acknowledging one from the start: it is never sent more than the window holds, and
	// a message leaves the window only by being settled.
	Acknowledged bool
	// MayAcknowledge does the same if an earlier reader of the channel has acknowledged. Without it, messages would leave
	// the window between the start of the read and its first acknowledgement, and a client that loses its connection
	// meanwhile would never see them.
	MayAcknowledge bool
	// Redeliver says what the coming of a reader without a cursor proves about an earlier read that ended as
	// [EndUnconfirmed]. If it is false, the reader has seen that end, so Subscribe settles what was received until then. If
	// it is true, the reader may have lost its connection. So it is sent all that again. Besides, this reader is never sent
	// more than the window holds, and a message leaves the window only by being settled. Redeliver has no effect in a
	// channel that follows cursors.
	Redeliver bool
}

// Resume tells how a read resumes from its cursor (protocol.md 2.2).
type Resume string

const (
	// ResumeNone means that the read showed no cursor.
	ResumeNone Resume = ""
	// ResumeComplete means that the channel still holds every message after the cursor.
	ResumeComplete Resume = "complete"
	// ResumeGap means that messages after the cursor may have been let go.
	ResumeGap Resume = "gap"
)

// End is how a read ended.
type End int

const (
	// EndClean is an end that the client has seen, as far as the server knows.
	EndClean End = iota
	// EndFault is any other end: the connection broke, or a write failed or timed out.
	EndFault
	// EndUnconfirmed is a clean end of which the server does not know whether the client has seen it, nor what of the
	// messages before it has reached the client.
	EndUnconfirmed
)

// State is what there is to know of a channel, beside its messages.
type State struct {
	// Connected tells whether the channel has a reader now.
	Connected bool
	// Pending and InFlight count the messages that the channel holds.
	Pending, InFlight int
	// HeldProducers is in how many calls a producer waits for room in the channel.
	HeldProducers int
	// Created is when the channel was created.
	Created time.Time
	// LastRead is when the last read began or, if there is none now, ended. It is zero if the channel was never read.
	LastRead time.Time
	// Expires is when the channel will be deleted if no read begins. It is zero while there is a reader.
	Expires time.Time
}

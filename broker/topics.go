package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Topics is a [Broker] with topics (protocol.md 2.12). A topic is a set of channels, its members, with a memory if asked.
// A message that is published to a topic is put into each member's channel, where all that [Broker] says applies.
//
// A topic has a name of 1 to [MaxTopicName] bytes. It exists as long as it has members or a memory ([Keep]), and costs nothing
// otherwise. When it ceases to exist, all of it is forgotten: its settings, what it keeps, and that it was closed. A membership
// ends with its channel.
//
// Order: each publish, and the end of the topic, has its place in the topic, and every member holds the topic's messages in
// that order. A channel that joins or leaves while a message is published has its place before or after it. If it joins before it
// and does not leave before it, it gets the message; otherwise it does not. A kept message that a join brings is not published
// to the channel again, and none is missing between the kept ones and the published ones. A channel that leaves and joins again
// is a new member: a join that asks for kept messages brings them once more, except keyed ones that the channel would drop as
// duplicates. One that the channel holds, or has settled last, then has another event id, so that a cursor shows only one of the
// two. A message for which it still waits for room when it leaves ([FullHold]) does not come.
//
// Pieces of a text ([MergeAppend]) become one message only if none that the topic had in between is missing: after a message was
// missed, and after the channel has left, the next piece stands for itself.
//
// So for each message that was published while a channel was a member, one of these holds. The channel has taken it, and it is
// delivered or undelivered like any other. Or the channel had no room, and has missed it ([Stats].Skipped).
//
// Draining ([Drainer]): a channel that takes no more messages cannot join, and stays a member until it is gone. Of topics it gets
// only their ends; one that waited comes at once. It misses what waited for room in it ([FullHold]). It also misses what is published
// then, for which neither [Published] nor [Stats].Skipped counts it.
type Topics interface {
	Broker

	// CreateMember makes a channel like Create, which knows topics ([Message.Missed], [NewEnd]), and makes it a member of
	// the topics, of which there may be none. It fails like Create and like Join, and then there is no channel.
	CreateMember(ctx context.Context, agent string, topics []Join, l Limits) (Addresses, error)

	// Join makes the channel of a producer address a member. If it is one, Join does nothing, and brings no kept messages.
	// It fails with [ErrNotFound], or with [ErrTopicLimit] if the channel is a member of l.MaxTopics topics. Kept messages come
	// whether the channel has room or not, and whether there is memory or not, which they do not take a second time. Only what they
	// become if they are merged takes some; without memory they are not.
	Join(ctx context.Context, producer string, topic Join, l Limits) error

	// Leave ends a membership. If there is none, it does nothing. It fails with [ErrNotFound] if there is no channel. If it fails
	// with [ErrStorage], the channel is a member as before.
	Leave(ctx context.Context, producer, topic string) error

	// KeepTopic sets the memory of a topic. It replaces what an earlier call or the defaults of [Limits] have set, and counts as
	// a publish for [Keep].TTL. It fails with [ErrMemoryLimit] if the memory for messages is used up.
	KeepTopic(ctx context.Context, topic string, k Keep, l Limits) error

	// PublishTopic publishes a message to all members, and reports how many there were and what became of it. It does not
	// wait for members without room, unless full says so. It waits while another message is published to the same topic, first
	// come first served, and fails with the error of ctx if that ends meanwhile. After that ctx ends only the wait for room.
	//
	// A member in which a producer waits has no room. If a message may be merged, it is, member by member.
	//
	// A duplicate counts as accepted. A topic with a memory does not keep a keyed message again that it keeps, or has let go when
	// fewer than [KeyWindow] keyed messages were let go since. So a repeated publish has an effect only on members that have not
	// had the message.
	//
	// PublishTopic fails with [ErrTopicClosed], and with [ErrMemoryLimit] if the memory for messages is used up. If it fails, no
	// member has the message and the topic does not keep it, unless the error is [ErrOutcomeUnknown] or [ErrClosed].
	PublishTopic(ctx context.Context, topic string, m *Message, full WhenFull, l Limits) (Published, error)

	// CloseTopic ends a topic. Members that know topics get end, which [NewEnd] made, as their last message of it, whether
	// they have room or not, and outside the buffer. If an earlier message of the topic waits for room in a member, the end comes
	// after it. After CloseTopic, PublishTopic fails with [ErrTopicClosed] until the topic ceases to exist: that is at once if it
	// has neither members nor a memory. Members stay members. A later Join that asks for kept messages brings all of them that it
	// asks for, and then the end, if the channel knows topics. Closing counts as a publish for [Keep].TTL. Closing again does nothing.
	// It waits for its turn as PublishTopic does. If it fails with [ErrStorage], the topic is not closed; some members may have the
	// end all the same, and get another one when it is closed again. If it fails with [ErrOutcomeUnknown], closing again brings the
	// same end to those that do not have it.
	CloseTopic(ctx context.Context, topic string, end *Message, l Limits) error

	// Topic tells what there is to know of a topic. One that does not exist has a name and nothing else.
	Topic(ctx context.Context, topic string) (TopicInfo, error)

	// ListTopics returns a page of all topics that match the options, with the promises of List. It fails with [ErrCursor].
	ListTopics(ctx context.Context, o TopicListOptions) (TopicPage, error)
}

// MaxTopicName is how long the name of a topic may be, in bytes.
const MaxTopicName = 255

// CheckTopic checks that a text can be the name of a topic: 1 to [MaxTopicName] bytes of UTF-8.
func CheckTopic(name string) error {
	if name == "" || len(name) > MaxTopicName || !utf8.ValidString(name) {
		return fmt.Errorf("the name of a topic has 1 to %d bytes of UTF-8", MaxTopicName)
	}
	return nil
}

// Errors of [Topics]. None of them is a fault.
var (
	ErrTopicLimit  = errors.New("the channel is a member of too many topics")
	ErrTopicClosed = errors.New("the topic is closed")
)

// A Join says which topic a channel joins, and what of its memory it gets.
type Join struct {
	Topic string
	// Last is how many of the newest kept messages the channel gets, before all that is published later. They do not count
	// toward [Limits].Buffer, so they hold up no producer, but a reader is sent them within its window like others. [LastAll]
	// means all.
	Last int
}

// LastAll is a [Join].Last that asks for all kept messages.
const LastAll = -1

// Keep is the memory of a topic.
type Keep struct {
	// Bytes is how many bytes of its newest messages a topic keeps, by [Message.Size]. 0 means none. They count toward
	// [Limits].MaxMemory, each message once. A message that is larger is not kept.
	//
	// Old messages do not starve channels: all topics together keep at most half of [Limits].MaxMemory. A topic whose publish
	// would cross that keeps fewer of its own messages, the newest ones.
	Bytes int64
	// TTL is how long a topic without members keeps them, and remembers that it was closed and what [Topics].KeepTopic has set:
	// until so long after the last publish. If the last member goes later than that, all of it is gone at once.
	TTL time.Duration
}

// WhenFull says what becomes of members that have no room for a published message.
type WhenFull int

const (
	// FullMiss makes them miss the message. The next message that such a channel takes says how many it has missed
	// ([Message.Missed]), if the channel knows topics, and says the same whenever it is sent again. That message need not be one
	// of the topic, and if it has waited for room itself, it may be older than those that were missed. A channel that is deleted
	// before it takes another message tells nobody; the messages are only counted ([Stats].Skipped).
	FullMiss WhenFull = iota
	// FullHold makes PublishTopic wait for room for at most [Limits].Hold, as PublishBatch does, and until its ctx ends. Members
	// that still have none then miss the message. Later publishes do not wait for these, and do not overtake: a member in which a
	// message waits has no room. A Broker may bound how many members wait at once; others miss the message.
	FullHold
	// FullDelete deletes their channels, with the messages that they hold as undelivered. The published one counts as skipped.
	FullDelete
)

// Published says what became of a published message.
type Published struct {
	// Members is how many members there were, Accepted how many of them have taken the message, and Full how many had no
	// room for it. Members that left or were deleted while the message waited for room are in neither of the two.
	Members, Accepted, Full int
}

// TopicInfo is what there is to know of a topic.
type TopicInfo struct {
	Name string
	// Members is how many channels the topic has, and Connected how many of these have a reader.
	Members, Connected int
	// Kept is how many messages the topic keeps, and KeptBytes what they take.
	Kept      int
	KeptBytes int64
	// Keep is the memory as it is set, by a call or by the limits of the last call that gave some.
	Keep Keep
	// Closed is how the topic was closed ([Message.End]), or empty.
	Closed string
}

// TopicListOptions say which topics a page lists.
type TopicListOptions struct {
	// After is the Next of the page before, or empty for the first page.
	After string
	// Limit is how many topics a page has at most. At least 1.
	Limit int
	// Prefix lists only topics whose names begin with it.
	Prefix string
	// MinMembers lists only topics with at least so many members.
	MinMembers int
}

// A TopicPage is a part of the list of all topics.
type TopicPage struct {
	Topics []TopicInfo
	// Next is where the list goes on. It is empty at the end.
	Next string
}

// A TopicEvent is that a topic has got its first member, or lost its last one.
type TopicEvent struct {
	Topic string
	// Members is 1 when the first one has come, and 0 when the last one has gone.
	Members int
}

// A TopicSource is a [Topics] that reports [TopicEvent]s as they happen.
type TopicSource interface {
	// OnTopics makes the Broker call report with what happens from now on, as [DeletionSource].OnDeletions does: in order for
	// each topic, within about a second, at most 10,000 at a time. A topic that gains its first member and loses its last one
	// in between is reported with both. [DeletionSource].FlushDeletions reports them too. Members that go because the Broker closes
	// are not reported.
	OnTopics(report func([]TopicEvent))
}

// Package journal is the seam between the channels and topics of package memory and a journal that keeps them across restarts.
// Package memory calls a [Journal] whenever a channel changes. The journal calls an [Engine] to restore channels, and to
// write again what lives of its oldest part. Only packages below broker can use it.
//
// What a journal has of a channel can be put together in any order: messages have positions, and what was taken or
// settled is a position, of which the largest counts. So a record may be written twice, and a message that is copied
// forward may stand behind newer ones.
package journal

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// An ID names a channel or a topic for as long as a journal has records of it: its place in the Broker's list, and a tag that
// distinguishes it from others in that place.
type ID struct{ Place, Tag uint32 }

// TopicPlace is a bit that the Place of a topic has, and that of a channel does not.
const TopicPlace = 1 << 31

// A Channel is what a journal keeps of a channel beside its messages.
type Channel struct {
	ID
	Agent, Client      string
	Producer, Consumer broker.Secret
	Created            time.Time
	Read
	Move
}

// Read is what a read changes at its beginning and its end.
type Read struct {
	Follows, Acks bool
	LastRead      time.Time // zero: never
	TTL           time.Duration
	OwnTTL        bool   // the channel was created with this TTL, which never changes
	KnowsTopics   bool   // the channel was created so, which never changes
	Unconfirmed   uint64 // up to this position, a read has brought messages that ended as [broker.EndUnconfirmed]
}

// A Move says how far a channel's messages have been taken and let go. Positions count from 1, so zero means none.
type Move struct {
	Taken     uint64         // messages up to this position are in flight, or were
	LetGo     uint64         // messages up to this position are gone
	LetGoID   broker.EventID // of the message at LetGo
	LetGoKeys []broker.EventID
}

// A Topic is what a journal keeps of a topic beside the messages that it keeps for those who join later. These have positions as
// a channel's messages have, and are let go like them. Taken is when the topic was last published to, in nanoseconds since 1970.
type Topic struct {
	ID
	Name string
	Keep broker.Keep
	Set  bool            // Keep was set by a call, not by the limits
	End  *broker.Message // how it was closed; nil if it was not
	Move
}

// A Mark is what is special about a message of a channel because of topics.
type Mark struct {
	Missed  int  // messages of topics that the channel has missed before it, and that it tells of
	Outside bool // it does not count toward the buffer
	Gap     bool // it has not come yet, and a message of a topic may be missing before it
}

// Marks are a Mark that messages at several positions have, one after the other.
type Marks struct {
	Position uint64
	Count    int
	Mark
}

// A Member is what a journal keeps of a channel because of topics.
type Member struct {
	ID
	Topics []ID    // of which it is a member
	Ends   []ID    // those of them whose end waits for its turn, and is not one of the channel's messages yet
	Marks  []Marks // by position
}

// A Journal is told of every change, in the order in which it happens. All methods but Waits and Barrier are called with the lock
// of the channel or the topic held, so they must be fast, and call no method of either.
//
// A topic is told of once there is something to keep of it. Put, Move and Delete are for topics, too.
type Journal interface {
	// NextTag returns a tag for a new channel.
	NextTag() uint32
	// Create, Put and Delete return the commit that makes the change durable, or nil if it is as durable as it has to be.
	// If Create or Put fail, nothing has happened.
	Create(c *Channel) (*Commit, error)
	// Put notes a message at a position. If it is written to several channels in one call, or kept by a topic, batch is the same
	// for all of them, and zero at first. The journal tells the holder, if there is one, when the message is durable, if it
	// returns a commit, which it must if mustCommit is set.
	Put(h Holder, id ID, position uint64, m *broker.Message, batch *Batch, mustCommit bool) (*Commit, error)
	// Merge notes that a message was merged with the one at a position. It returns and fails like Put.
	Merge(h Holder, id ID, position uint64, m Merge, mustCommit bool) (*Commit, error)
	// Move and Read never fail: what a journal cannot write now, it writes later. The keys of a Move are those
	// that were let go, or merged, since the last one, oldest first. If none was let go, LetGo may be zero.
	Move(id ID, m Move)
	Read(id ID, r Read)
	// Delete fails only if a call has asked for it, which is told so. Then nothing has happened.
	Delete(id ID, asked bool) (*Commit, error)
	// Topic notes all of a topic but the messages that it keeps. Join notes that a channel becomes a member. If they fail,
	// nothing has happened. Leave fails like Delete. Mark never fails, like Move.
	Topic(t *Topic) error
	Join(id, topic ID) error
	Leave(id, topic ID, asked bool) error
	// EndWaits notes that the end of a topic waits for its turn in a member. If it fails, nothing has happened. EndComes notes that
	// the end does not wait any more. It never fails, like Move.
	EndWaits(id, topic ID) error
	EndComes(id, topic ID)
	// Mark notes what is special about the message at a position, which may be the next one to come. It replaces what was noted
	// of the position.
	Mark(id ID, position uint64, m Mark)
	// Barrier returns the commit that makes all durable that was noted before, or nil if it is as durable as it has to be. So
	// it is not if something could not be written when it happened.
	Barrier() *Commit
	// Takes returns why the journal takes nothing that adds to it now, or nil. Retry makes it call [Locked].Retry of a channel once
	// it does.
	Takes() error
	Retry(id ID)
	// Waits reports whether changes are not durable at once.
	Waits() bool
}

// A Merge says that Older and Newer, which was accepted now, have become Whole: Newer itself if it has replaced Older.
type Merge struct{ Older, Newer, Whole *broker.Message }

// A Holder is a channel that holds messages which are not durable yet.
type Holder interface {
	// Durable tells that the messages up to a position are durable, as they were when a commit was made that is durable now. An
	// earlier commit was reported before, and there is at most one later one.
	Durable(position uint64, c *Commit)
}

// A Batch is where the journal has a message that several channels or topics hold. It is the journal's to use.
type Batch struct{ Place atomic.Uint64 }

// An Engine is the channels and topics, as a journal sees them.
type Engine interface {
	// Restore adds topics and channels with their messages. It is called once, before anything else.
	Restore([]RestoredTopic, []Restored)
	// Look calls f with the lock of a channel or topic held. It reports whether there is such; if not, it does not call f.
	Look(id ID, f func(Locked)) bool
	// IDs iterates over all topics that the journal was told of, and all channels. It may miss some that are created meanwhile.
	IDs() iter.Seq[ID]
	// Live returns how many bytes all messages take, and how many channels and topics, and how many memberships, there are.
	Live() (bytes int64, holders, memberships int)
}

// Restored is a channel as a journal restores it, with its messages, oldest first. Their positions follow each other from
// LetGo + 1. Each lives for a whole TTL from now on.
type Restored struct {
	*Channel

	Messages []*broker.Message
	Topics   []ID    // of which it is a member; all of them are restored
	Ends     []ID    // as in Member
	Marks    []Marks // by position
}

// RestoredTopic is a topic as a journal restores it, with the messages that it keeps, oldest first. Their positions follow each
// other from LetGo + 1. Each lives as long as it would have without the restart.
type RestoredTopic struct {
	*Topic

	Kept []*broker.Message
}

// Locked is a channel or a topic whose lock is held.
type Locked interface {
	// LetGo returns the position of the last message that is gone.
	LetGo() uint64
	// Snapshot returns all of a channel but its messages and what Member returns. It is nil for a topic.
	Snapshot() *Channel
	// Member returns what a channel has because of topics.
	Member() *Member
	// IsMember reports whether a channel is a member of a topic, and whether the end of that waits. MarkAt returns what is special
	// about a position.
	IsMember(topic ID) (is, endWaits bool)
	MarkAt(position uint64) Mark
	// Topic returns all of a topic but what it keeps. It is nil for a channel.
	Topic() *Topic
	// At returns the message at a position after LetGo, or nil if there is none.
	At(position uint64) *broker.Message
	// Messages iterates over the messages and their positions.
	Messages() iter.Seq2[uint64, *broker.Message]
	// AllDurable tells that all messages are durable.
	AllDurable()
	// Retry admits what waits, if it waits only because the journal has failed.
	Retry()
}

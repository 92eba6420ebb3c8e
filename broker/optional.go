package broker

import (
	"context"
	"errors"
	"time"
)

// A Configurer is a [Provider] whose Broker can take other settings while it is open.
type Configurer interface {
	// ConfigureBroker sets what [Provider].BrokerKey leaves out. It is called when a configuration takes effect, with a
	// Broker that this module has opened, perhaps for an earlier configuration.
	ConfigureBroker(Broker)
}

// A Keeper is a [Broker] whose channels outlive it.
type Keeper interface {
	// Keeps reports whether another Broker that is opened the same way will have the channels that this one has.
	Keeps() bool
}

// A Continuer is a [Broker] whose store makes messages durable in a moment. A write need not keep a goroutine for that.
type Continuer interface {
	// PublishThen does what Publish does if nothing but the store is to be waited for. It reports whether it did, or began
	// to. If so, it calls c.Published once, with the error of Publish, on any goroutine and perhaps before it returns. If it
	// returns false, nothing has happened, and the caller must call Publish. Repeats, order and limits are those of Publish.
	PublishThen(producer string, m *Message, l Limits, c Continuation) bool
}

// A Continuation goes on with a write when its outcome is known.
type Continuation interface {
	// Published gets the outcome. No lock is held. It must not wait: others are told after it.
	Published(err error)
}

// A Notifier is a [Subscription] that can call a function instead of sending on a channel. Its reader then needs no
// goroutine while it waits.
type Notifier interface {
	Subscription

	// Notify makes the subscription call f once, in a goroutine of its own, when Ready has a value or Done is closed. If
	// one of these holds already, Notify returns false and never calls f. A later Notify replaces an earlier one, unless the
	// earlier call has begun. So f may be called after its reader has found out by itself. f must not panic, for nobody
	// else would recover.
	Notify(f func()) bool
}

// A Drainer is a [Broker] that can be emptied, so that its process can stop without losing anything. Draining concerns
// this process only: where several servers share the channels, the others go on. Then the channels stay and take messages, and
// only the reads of this process end: one after the other, spread over the given time, their readers see
// [Subscription].Drained. DrainState counts channels that have a reader in this process.
type Drainer interface {
	// Drain begins to empty the Broker, or begins again with another time. From now on Create fails with [ErrDraining]. One
	// after the other, spread over the given time, channels take no more messages: their producers get [ErrNotFound], and
	// their readers get what the channel holds, then see [Subscription].Drained. A channel is deleted once everything in it
	// is settled, or when it expires. Drain lasts until Undrain.
	Drain(over time.Duration) DrainState

	// Undrain ends a drain. Channels that are still there take messages again.
	Undrain()

	// DrainState tells how far the drain has come. It is zero if there is none.
	DrainState() DrainState
}

// A DrainState tells how far a drain has come.
type DrainState struct {
	// Active tells that Create refuses. Done tells that all channels of the drain are gone.
	Active, Done bool
	// Started is when the drain began, and Over the time over which it is spread.
	Started time.Time
	Over    time.Duration
	// Channels is how many channels there were at the start, and Remaining how many of them are left.
	Channels, Remaining int
	// Undelivered is how many messages were let go since the start because their channel expired or was deleted.
	Undelivered int
}

// A Statser is a [Broker] that counts.
type Statser interface {
	// Stats returns what happened since the Broker was made, and what it holds now. It takes no longer with many channels
	// than with few, and delays no other call. Where several servers share the channels, it returns what happened in this
	// process, and what all channels hold. It may ask the store, and returns older numbers if that does not answer in time.
	Stats() Stats
}

// A MemoryUser is a [Broker] that keeps messages in this process's memory.
type MemoryUser interface {
	// MemoryUsed returns how many bytes all messages take, those that wait for room included. Each message counts once.
	// It takes no lock.
	MemoryUsed() int64
}

// A DeletionSource is a [Broker] that reports deletions as they happen.
type DeletionSource interface {
	// OnDeletions makes the Broker call report with the channels that are deleted from now on: within about a second, many at
	// once, and when it closes. Calls come one after the other. They should be short, for they delay the expiry of
	// channels. A batch has at most 10,000 deletions, and the slice is report's to keep. Close deletes channels without
	// reporting them. Where several servers share the channels, one of them reports a deletion, not always the one that
	// deleted. It counts as reported when report returns: if that server is killed before, another one reports it.
	OnDeletions(report func([]Deletion))

	// FlushDeletions reports at once what was deleted until now, and returns after that.
	FlushDeletions()
}

// A WaitingSource is a [Broker] that reports channels in which messages wait and that nobody reads.
type WaitingSource interface {
	// OnWaiting makes the Broker call report with channels in which a message has waited, and that nobody has read, for as long
	// as after returns. Zero means that nobody wants to know now; the Broker asks again about once a second. A report may be late
	// by a tenth of that time, or by some seconds.
	//
	// A message waits if it is pending, or if it was sent, will be sent again, and has not reached its reader's machine as far as
	// the Broker knows. If a read ends as [EndFault] in a channel that does not follow cursors, all that it brought waits. Once
	// readers of the channel have acknowledged messages, each one that is not acknowledged waits.
	//
	// A channel is reported once, and again only after a reader has come and left. If the Broker is opened anew on channels that
	// have outlived it, they may be reported once more. Calls of report come one after the other, never with more than 10,000
	// channels, and should be short. The slice is report's to keep. A reader may have come in the meantime.
	OnWaiting(after func() time.Duration, report func([]Waiting))
}

// Waiting is a channel in which messages wait and that nobody reads.
type Waiting struct {
	// Agent and Secret are the two parts of the channel's consumer address.
	Agent  string
	Secret Secret
	// Messages is how many messages wait.
	Messages int
	// Since is when the oldest of them came, or the last reader left if that was later. If messages of the channel are merged, it
	// may be late by as much as a report.
	Since time.Time
}

// Consumer returns the channel's consumer address.
func (w Waiting) Consumer() string { return FormatAddress(w.Agent, w.Secret) }

// A HealthChecker is a [Broker] that may be unable to serve.
type HealthChecker interface {
	// Healthy returns nil, or why new clients are not welcome, such as a store that cannot be reached. It does not wait.
	Healthy() error
}

// A Backuper is a [Broker] that can copy what it keeps.
type Backuper interface {
	// Backup makes a folder at path, which must not exist, with a copy of all that is kept. It has everything that was
	// acknowledged before the call. The folder is there only once it is complete and durable. Backup returns its size in bytes.
	// It fails with [ErrBackupExists].
	Backup(ctx context.Context, path string) (size int64, err error)
}

// ErrBackupExists means that there is something at the path of a backup already.
var ErrBackupExists = errors.New("there is such a file or folder already: give the backup a name of its own")

// A Deletion is a channel that was deleted, by age or by a call.
type Deletion struct {
	// Agent and Secret are the two parts of the channel's consumer address.
	Agent  string
	Secret Secret
	// Undelivered is how many messages the channel held.
	Undelivered int
	Reason      EndReason
}

// Consumer returns the channel's consumer address.
func (d Deletion) Consumer() string { return FormatAddress(d.Agent, d.Secret) }

// StatsOf returns what a Broker counts, or zeros if it does not count.
func StatsOf(b Broker) Stats {
	if b, ok := b.(Statser); ok {
		return b.Stats()
	}
	return Stats{}
}

// IsDraining reports whether a Broker drains.
func IsDraining(b Broker) bool {
	d, ok := b.(Drainer)
	return ok && d.DrainState().Active
}

// IsKept reports whether the channels of a Broker outlive it.
func IsKept(b Broker) bool {
	k, ok := b.(Keeper)
	return ok && k.Keeps()
}

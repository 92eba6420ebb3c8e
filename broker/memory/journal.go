package memory

import (
	"context"
	"iter"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// NewJournaled returns an empty Broker that tells a journal of every change, and the engine by which the journal restores
// its channels. Only packages that know the type of the journal can call it.
func NewJournaled(j journal.Journal) (*Broker, journal.Engine) {
	b := New()
	b.journal = j
	return b, engine{b}
}

// journaled is what a channel has for a journal. Its lock guards it.
//
// The message at index i of the queue has the position letGoCount + i + 1.
type journaled struct {
	letGoCount uint64 // messages that were let go
	newKeys    int    // how many of them had keys, since the journal was last told
	// unsynced is how many messages, at the end of the queue, are not durable yet. A reader does not see them.
	unsynced   int
	lastCommit *journal.Commit // makes the last of them durable
	// mergeCommit makes durable what was merged last, and mergedFrom is the first position that was merged since the commit
	// began. An earlier commit makes only what these messages have been durable.
	mergeCommit *journal.Commit
	mergedFrom  uint64
	deleted     *journal.Commit // makes the channel's end durable

	ttl          time.Duration // of the call that used it last
	lastLetGo    uint64        // letGoCount and inFlight when the journal was last told
	lastInFlight int
}

func (c *channel) journalID() journal.ID {
	return journal.ID{Place: uint32(c.place), Tag: c.tag} //nolint:gosec // there are far fewer channels
}

// journalPut tells the journal of a message that is put into the queue next. The lock is held.
func (c *channel) journalPut(m *broker.Message, batch *journal.Batch) error {
	position := c.letGoCount + uint64(c.queue.len) + 1 //nolint:gosec // not negative
	commit, err := c.broker.journal.Put(c, c.journalID(), position, m, batch, c.unsynced > 0)
	if err != nil {
		return err
	}
	if commit != nil {
		c.unsynced++
		c.lastCommit = commit
	}
	return nil
}

// notDurable returns how many messages, at the end of the queue, are not durable yet. The lock is held.
func (c *channel) notDurable() int {
	if c.journaled == nil {
		return 0
	}
	return c.unsynced
}

// noteLetGo notes that a message was let go. The lock is held.
func (c *channel) noteLetGo(m *broker.Message) {
	if c.journaled == nil {
		return
	}
	c.letGoCount++
	c.unsynced = min(c.unsynced, c.queue.len) // all are let go when the channel is deleted
	if m.Keyed() {
		c.newKeys++
	}
}

// commit returns what makes all messages of the channel durable, or nil if they are. The lock is held.
func (c *channel) commit() *journal.Commit {
	if c.notDurable() == 0 {
		return nil
	}
	return c.lastCommit
}

// Durable implements [journal.Holder].
func (c *channel) Durable(position uint64, commit *journal.Commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mergeCommit == commit:
		c.mergeCommit = nil
	case c.mergeCommit != nil && c.mergedFrom <= position:
		position = c.mergedFrom - 1
		if c.reader != nil {
			c.reader.wake() // or else it may never get to wait: see isAwaited
		}
	}
	if c.closed == open {
		c.durable(int(c.letGoCount + uint64(c.queue.len) - position)) //nolint:gosec // at most the queue's length
	}
}

// AllDurable implements [journal.Locked].
func (c *channel) AllDurable() { c.durable(0) }

// durable tells that all messages are durable but the last ones. The lock is held.
func (c *channel) durable(unsynced int) {
	if unsynced >= c.unsynced {
		return
	}
	if c.unsynced = unsynced; unsynced == 0 {
		c.lastCommit, c.mergeCommit = nil, nil
	}
	if c.reader != nil {
		c.reader.wake()
	}
}

// journalMove tells the journal how far messages were taken and let go, if that has changed. The lock is held.
func (c *channel) journalMove() {
	if c.journaled == nil || c.lastLetGo == c.letGoCount && c.lastInFlight == c.queue.inFlight {
		return
	}
	move := c.move()
	if c.lastLetGo == c.letGoCount {
		move.LetGo, move.LetGoID = 0, broker.EventID{}
	}
	move.LetGoKeys = c.letGoKeys.last(c.newKeys)
	c.broker.journal.Move(c.journalID(), move)
	c.newKeys, c.lastLetGo, c.lastInFlight = 0, c.letGoCount, c.queue.inFlight
}

// move returns how far messages were taken and let go, without the keys. The lock is held.
func (c *channel) move() journal.Move {
	return journal.Move{
		Taken: c.letGoCount + uint64(c.queue.inFlight), //nolint:gosec // not negative
		LetGo: c.letGoCount, LetGoID: c.settled,
	}
}

// journalRead tells the journal that a read begins or ends, or acknowledges. A ttl of zero changes none. The lock is held.
func (c *channel) journalRead(ttl time.Duration) {
	if c.journaled == nil {
		return
	}
	if ttl != 0 {
		c.ttl = ttl
	}
	c.broker.journal.Read(c.journalID(), c.read())
}

func (c *channel) read() journal.Read {
	r := journal.Read{Follows: c.follows, Acks: c.acks, TTL: c.ttl, Unconfirmed: c.letGoCount + uint64(c.unconfirmed)}
	r.OwnTTL, r.KnowsTopics = c.rare != nil && c.rare.ttl != 0, c.knowsTopics
	if c.lastRead != 0 {
		r.LastRead = c.broker.wallTime(c.lastRead)
	}
	return r
}

// forget makes the journal forget the channel. It fails only if a call has asked for that. The lock is held.
func (c *channel) forget(asked bool) (err error) {
	if c.journaled != nil {
		c.deleted, err = c.broker.journal.Delete(c.journalID(), asked)
	}
	return err
}

// add adds a new channel. From then on, other goroutines may delete it.
func (b *Broker) add(c *channel, ttl time.Duration) (*journal.Commit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.list.add(c)
	var commit *journal.Commit
	if b.journal != nil {
		var err error
		c.tag, c.journaled = b.journal.NextTag(), &journaled{ttl: ttl}
		if commit, err = b.journal.Create(c.Snapshot()); err != nil {
			c.closed = deleted // for whoever has found it in the list
			b.list.remove(c)
			b.count.Add(-1)
			c.releaseQuota()
			return nil, err
		}
	}
	c.counters.created.Add(1)
	b.channels.Store(c.producer, c)
	b.channels.Store(c.consumer, c)
	return commit, nil
}

// PublishThen implements [broker.Continuer].
func (b *Broker) PublishThen(producer string, m *broker.Message, l broker.Limits, then broker.Continuation) bool {
	c, err := b.lookup(producer, producerKind)
	if err != nil {
		return false
	}
	ok, _, commit := c.publishNow(m, &l)
	if ok {
		commit.Then(then)
	}
	return ok
}

// ended waits until the end of a deleted channel is durable.
func (c *channel) ended(ctx context.Context) error {
	if c.journaled == nil {
		return nil
	}
	return c.deleted.Wait(ctx)
}

// LetGo implements [journal.Locked].
func (c *channel) LetGo() uint64 { return c.letGoCount }

// Snapshot implements [journal.Locked].
func (c *channel) Snapshot() *journal.Channel {
	s := &journal.Channel{
		ID: c.journalID(), Agent: c.agent, Producer: c.producer, Consumer: c.consumer,
		Created: c.broker.wallTime(c.created), Read: c.read(), Move: c.move(),
	}
	if c.rare != nil {
		s.Client = c.rare.client
	}
	s.LetGoKeys = c.letGoKeys.last(broker.KeyWindow)
	return s
}

// At implements [journal.Locked].
func (c *channel) At(position uint64) *broker.Message {
	if i := position - c.letGoCount - 1; i < uint64(c.queue.len) { //nolint:gosec // not negative
		return c.queue.at(int(i)) //nolint:gosec // below the length
	}
	return nil
}

// Messages implements [journal.Locked].
func (c *channel) Messages() iter.Seq2[uint64, *broker.Message] {
	return func(yield func(uint64, *broker.Message) bool) {
		for i := range c.queue.len {
			if !yield(c.letGoCount+uint64(i)+1, c.queue.at(i)) {
				return
			}
		}
	}
}

// batches returns what a journal needs for a call that writes each of so many messages to so many channels.
func (b *Broker) batches(channels, messages int) []journal.Batch {
	if b.journal == nil || channels < 2 {
		return nil
	}
	return make([]journal.Batch, messages)
}

// batch returns what the journal needs for the next message.
func (w *waiter) batch() *journal.Batch {
	if w.batches == nil {
		return nil
	}
	return &w.batches[w.accepted]
}

// An engine is the [journal.Engine] of a Broker.
type engine struct{ *Broker }

// Look implements [journal.Engine].
func (e engine) Look(id journal.ID, f func(journal.Locked)) bool {
	if id.Place&journal.TopicPlace != 0 {
		return e.lookTopic(id, f)
	}
	c := e.list.at(int(id.Place))
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tag != id.Tag || c.closed != open {
		return false
	}
	f(c)
	return true
}

// IDs implements [journal.Engine].
func (e engine) IDs() iter.Seq[journal.ID] {
	return func(yield func(journal.ID) bool) {
		if !e.topicIDs(yield) {
			return
		}
		for c := range e.list.all() {
			c.mu.Lock()
			id := c.journalID()
			c.mu.Unlock()
			if !yield(id) {
				return
			}
		}
	}
}

// Live implements [journal.Engine].
func (e engine) Live() (bytes int64, holders, memberships int) {
	return e.budget.buffered.Load(), e.channelCount() + e.topics.byName.Size(), int(e.topics.memberships.Load())
}

// Restore implements [journal.Engine].
func (e engine) Restore(topics []journal.RestoredTopic, all []journal.Restored) {
	byID := e.restoreTopics(topics)
	channels := make([]*channel, 0, len(all))
	for _, r := range all {
		c := e.restore(r.Channel)
		for _, m := range r.Messages {
			e.budget.reserve(m)
			c.queue.push(m)
		}
		c.counters.accepted.Add(uint64(len(r.Messages)))
		c.unconfirmed = uint32(min(c.queue.len, int(max(r.Unconfirmed, r.LetGo)-r.LetGo))) //nolint:gosec // a number of messages
		c.queue.inFlight = min(c.queue.len, int(max(r.Taken, r.LetGo)-r.LetGo))            //nolint:gosec // a number of messages
		e.restored.Add(uint64(c.queue.inFlight))                                           //nolint:gosec // not negative
		c.lastInFlight = c.queue.inFlight
		c.restoreMember(&r, byID)
		channels = append(channels, c)
	}
	e.list.put(channels)
	e.count.Add(int64(len(channels)))
	e.settleTopics(byID)
}

// restore makes a channel of what the journal kept, and enters it by its addresses.
func (b *Broker) restore(r *journal.Channel) *channel {
	c := &channel{
		broker: b, agent: r.Agent, producer: r.Producer, consumer: r.Consumer,
		place: int(r.Place), tag: r.Tag, counters: &b.counters[r.Producer[0]%counterShards],
		created: r.Created.Sub(b.epoch) + 1,
		settled: r.LetGoID, follows: r.Follows, acks: r.Acks, knowsTopics: r.KnowsTopics,
		journaled: &journaled{letGoCount: r.LetGo, lastLetGo: r.LetGo, ttl: r.TTL},
	}
	if !r.LastRead.IsZero() {
		c.lastRead = r.LastRead.Sub(b.epoch) + 1
	}
	for _, id := range r.LetGoKeys {
		c.rememberKey(id)
	}
	c.expires.Store(int64(b.now() + r.TTL))
	c.counters.created.Add(1)
	if r.Client != "" {
		c.ensureRare().client = r.Client
		b.quotas.restore(r.Client)
	}
	if r.OwnTTL {
		c.ensureRare().ttl = r.TTL
	}
	b.channels.Store(c.producer, c)
	b.channels.Store(c.consumer, c)
	return c
}

package redis

import (
	"cmp"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// In a cluster, members of a topic and its home may lie on different servers. What the home has to know of members stands in a list
// beside these, written in the same step. The node that looks after the scope tells it. So the home hears of each change at least
// once and in order, and a node that is killed in between leaves nothing undone.

// checkInterval is after how long the scopes of a topic are checked again: see lua/home.lua.
const checkInterval = time.Minute

// maxTold is how many changes are told at once.
const maxTold = 100

// A change is that a scope has members of a topic now, or has none any more.
type change struct {
	has   memberState
	id    string // of the topic's record in the scope
	topic string
}

// A memberState says what a scope has of a topic: see lua/told.lua.
type memberState byte

const (
	hasNone memberState = iota // not any more
	hasSome                    // since then
	hasNow
)

// tellHomes tells the homes of topics what has changed in a scope, until its time is over.
func (b *Broker) tellHomes(scope int, over func() bool) error {
	key, c := b.keys.told(scope), b.client
	for !b.isClosed() && !over() {
		entries, err := b.do(b.background, c, c.B().Lrange().Key(key).Start(0).Stop(maxTold-1).Build()).AsStrSlice()
		if err != nil || len(entries) == 0 {
			return err
		}
		changes := make([]change, 0, len(entries))
		for _, s := range entries {
			const head = 1 + 8
			if len(s) > head {
				changes = append(changes, change{memberState(s[0]), s[1:head], s[head:]})
			}
		}
		if err := b.tell(scope, changes); err != nil {
			return err
		}
		commands := make([]rueidis.Completed, len(entries)) // by value, for two nodes may do it at once
		for i, s := range entries {
			commands[i] = c.B().Lrem().Key(key).Count(1).Element(s).Build()
		}
		if _, err := b.counts(commands); err != nil {
			return err
		}
	}
	return nil
}

// tellNow tells the homes of topics at once what a call has changed in a scope. So what happens in one scope after the other has
// the same order at the home. What fails or takes long, the next sweep does.
func (b *Broker) tellNow(scope int) {
	if len(b.keys.scopes) > 1 {
		_ = b.tellHomes(scope, shortTime())
	}
}

// tellAllHomes tells the homes of topics of all scopes that this node looks after, until its time is over. What fails, the next sweep
// does.
func (b *Broker) tellAllHomes(over func() bool) {
	if len(b.keys.scopes) == 1 {
		return
	}
	commands := make([]rueidis.Completed, len(b.keys.scopes))
	for scope := range commands {
		commands[scope] = b.client.B().Llen().Key(b.keys.told(scope)).Build()
	}
	counts, err := b.counts(commands)
	for scope, n := range counts {
		if err == nil && n > 0 && b.owns(scope) {
			err = b.tellHomes(scope, over)
		}
	}
}

// tell tells the homes of topics of changes in a scope.
func (b *Broker) tell(scope int, changes []change) error {
	return b.tellAll(b.tellCalls(scope, changes))
}

// tellCalls returns the calls of lua/told.lua for changes in a scope: one for each home.
func (b *Broker) tellCalls(scope int, changes []change) []scriptCall {
	args := map[int][]string{} // by home
	for _, ch := range changes {
		home := b.keys.home(ch.topic)
		if args[home] == nil {
			args[home] = []string{b.keys.pushPrefix(home), text(int64(scope))}
		}
		args[home] = append(args[home], text(int64(ch.has)), ch.id, ch.topic)
	}
	calls := make([]scriptCall, 0, len(args))
	for home, a := range args {
		calls = append(calls, scriptCall{[]string{b.keys.counters(home)}, a})
	}
	return calls
}

func (b *Broker) tellAll(calls []scriptCall) error {
	for _, reply := range b.runAll(b.background, toldScript, calls) {
		if err := reply.Error(); err != nil {
			return err
		}
	}
	return nil
}

// checkScopes looks whether the scopes that walks over some topics visit have a record of the topic. There is none if a join did not
// go on after it had begun. When its time is over, it leaves the rest to the next sweep.
func (b *Broker) checkScopes(home int, topics []string, over func() bool) (err error) {
	for _, topic := range topics {
		if over() {
			break
		}
		err = cmp.Or(err, b.checkAndNote(home, topic))
	}
	return err
}

// checkAndNote does that for one topic, and notes when to do it again.
func (b *Broker) checkAndNote(home int, topic string) error {
	waits, err := b.checkTopic(home, topic)
	if err != nil {
		return err
	}
	c := b.client
	command := c.B().Zrem().Key(b.keys.scopes[home] + "V").Member(topic).Build()
	if waits { // a join is under way, or its record goes by itself
		command = c.B().Zincrby().Key(b.keys.scopes[home] + "V").Increment(float64(ms(checkInterval))).Member(topic).Build()
	}
	return b.do(b.background, c, command).Error()
}

// checkTopic looks after the scopes of one topic. It reports whether there is a record without members.
func (b *Broker) checkTopic(home int, topic string) (waits bool, err error) {
	c := b.client
	fields, err := b.do(b.background, c, c.B().Hgetall().Key(b.keys.topic("H", home, topic)).Build()).AsStrMap()
	if err != nil {
		return false, err
	}
	var scopes []int
	var commands []rueidis.Completed
	for scope := range b.keys.scopes {
		if _, ok := fields["s"+text(int64(scope))]; ok {
			scopes = append(scopes, scope)
			commands = append(commands, c.B().Hget().Key(b.keys.topic("T", scope, topic)).Field("id").Build(),
				c.B().Exists().Key(b.keys.topic("M", scope, topic)).Build())
		}
	}
	var calls []scriptCall
	replies := b.doAll(commands)
	for i, scope := range scopes {
		there, err := replies[2*i].ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return false, err
		}
		members, err := replies[2*i+1].AsBool()
		id := fields["s"+text(int64(scope))]
		switch {
		case err != nil:
			return false, err
		case there == "":
			calls = append(calls, b.tellCalls(scope, []change{{hasNone, id, topic}})...)
		case !members:
			waits = true
		case there != id:
			calls = append(calls, b.tellCalls(scope, []change{{hasNow, there, topic}})...)
		}
	}
	return waits, b.tellAll(calls)
}

// tellAgain tells the homes of all topics that have members in the scopes that this node looks after, if another server has become the
// primary of some home, and may lack the last moments. When its time is over, it goes on in the next round.
func (b *Broker) tellAgain(over func() bool) {
	if b.tellDue {
		b.telling, b.tellDue = b.allToTell(), false
	}
	b.warnOfTopics(b.tellFrom(b.telling, over))
}

// allToTell returns the scopes that this node looks after, with where to begin in each.
func (b *Broker) allToTell() map[int]uint64 {
	cursors := map[int]uint64{}
	for scope := range b.keys.scopes {
		if b.owns(scope) {
			cursors[scope] = 0
		}
	}
	return cursors
}

// tellFrom tells the homes of the topics of some scopes, from cursors on, until its time is over. It moves the cursors, and removes
// the scopes that are done. Those for which a server cannot be reached hold up no others.
func (b *Broker) tellFrom(cursors map[int]uint64, over func() bool) (err error) {
	for len(cursors) > 0 && !over() && !b.isClosed() {
		var next map[int]uint64
		if next, err = b.tellSome(cursors, over); len(next) == 0 {
			break
		}
		for scope, cursor := range next {
			if cursors[scope] = cursor; cursor == 0 {
				delete(cursors, scope)
			}
		}
	}
	return err
}

// tellSome tells some topics of each scope. It returns the next cursors of those where it succeeded, and an error if others are left.
func (b *Broker) tellSome(cursors map[int]uint64, over func() bool) (next map[int]uint64, err error) {
	c := b.client
	scopes, scans := make([]int, 0, len(cursors)), make([]rueidis.Completed, 0, len(cursors))
	for scope, cursor := range cursors {
		scopes = append(scopes, scope)
		scans = append(scans, c.B().Sscan().Key(b.keys.scopes[scope]+"N").Cursor(cursor).Count(maxTold).Build())
	}
	next = map[int]uint64{}
	fails := func(scope int, failure error) {
		delete(next, scope)
		err = failure
	}
	var topics []string
	var places []int // their scopes
	var reads []rueidis.Completed
	for i, reply := range b.doAll(scans) {
		page, err := reply.AsScanEntry()
		if err != nil {
			fails(scopes[i], err)
			continue
		}
		next[scopes[i]] = page.Cursor
		for _, topic := range page.Elements {
			topics, places = append(topics, topic), append(places, scopes[i])
			reads = append(reads, c.B().Hget().Key(b.keys.topic("T", scopes[i], topic)).Field("id").Build())
		}
	}
	changes := map[int][]change{} // by scope
	for i, reply := range b.doAll(reads) {
		id, err := reply.ToString()
		if err == nil {
			changes[places[i]] = append(changes[places[i]], change{hasNow, id, topics[i]})
		} else if !rueidis.IsRedisNil(err) {
			fails(places[i], err)
		}
	}
	if err != nil && over() { // a server does not answer, and would not now
		return nil, err
	}
	var calls []scriptCall
	var tellers []int // the scopes of the calls
	for scope, some := range changes {
		for _, call := range b.tellCalls(scope, some) {
			calls, tellers = append(calls, call), append(tellers, scope)
		}
	}
	for i, reply := range b.runAll(b.background, toldScript, calls) {
		if err := reply.Error(); err != nil {
			fails(tellers[i], err)
		}
	}
	return next, err
}

// OnTopics implements [broker.TopicSource]. Like a deletion, an event is reported by one node. OnTopics waits for nothing, as
// OnDeletions.
func (b *Broker) OnTopics(report func([]broker.TopicEvent)) { b.reports.topics.Store(&report) }

package redis

import (
	"context"
	"fmt"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Resync makes a subscription ask Redis what it has missed, as after a lost connection.
func Resync(s broker.Subscription) { s.(*subscription).resync() }

// AsksForMore reports whether a subscription is going to ask Redis for messages.
func AsksForMore(sub broker.Subscription) bool {
	s := sub.(*subscription)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report.more
}

// A Walk is a publish to a topic that a test takes apart.
type Walk struct {
	w     *walk
	first walkReply
}

// BeginWalk begins a publish, and visits the first members.
func BeginWalk(ctx context.Context, b *Broker, topic string, m *broker.Message, l broker.Limits) (*Walk, error) {
	w := b.newWalk(topic, m, &l)
	first, err := w.begin(ctx)
	return &Walk{w, first}, err
}

// BeginClose is the same with the end of a topic.
func BeginClose(ctx context.Context, b *Broker, topic string, end *broker.Message, l broker.Limits) (*Walk, error) {
	w := b.newWalk(topic, end, &l)
	w.closes = true
	first, err := w.begin(ctx)
	return &Walk{w, first}, err
}

// Visited returns how many members were visited.
func (w *Walk) Visited() int { return w.w.result.Members }

// GoOn visits the other members, and ends the walk.
func (w *Walk) GoOn() (broker.Published, error) {
	err := w.w.visitRest(w.first)
	return w.w.result, err
}

// BeginJoin does what a join in a cluster begins with, and no more.
func BeginJoin(b *Broker, producer, topic string) error {
	x, err := b.decode(producer, false)
	if err != nil {
		return err
	}
	scope := b.keys.scopeOf(x.partition())
	id, member, _, err := b.runJoin(x, b.joinArgs(scope, "12345678", broker.Join{Topic: topic}, &broker.Limits{MaxTopics: 1}))
	if err != nil || member {
		return fmt.Errorf("the join is complete, or fails: %w", err)
	}
	_, err = b.register(scope, id, broker.Join{Topic: topic}, &broker.Limits{})
	return err
}

// CheckScopes looks after the home of a topic.
func CheckScopes(b *Broker, topic string) error {
	return b.checkScopes(b.keys.home(topic), []string{topic}, never)
}

func never() bool { return false }

// TellAgain tells the homes of topics of all members.
func TellAgain(b *Broker) error { return b.tellFrom(b.allToTell(), never) }

// TellAgainInRounds does the same, in rounds that are as short as can be. It returns how many it takes.
func TellAgainInRounds(b *Broker) (rounds int, err error) {
	for cursors := b.allToTell(); len(cursors) > 0 && err == nil; rounds++ {
		asked := false
		err = b.tellFrom(cursors, func() (over bool) {
			over, asked = asked, true
			return over
		})
	}
	return rounds, err
}

// TopicKeys returns the keys of a topic at its home, and in the scope of a channel.
func TopicKeys(b *Broker, producer, topic string) (home, record, members string) {
	x, _ := b.decode(producer, false)
	scope := b.keys.scopeOf(x.partition())
	return b.keys.topic("H", b.keys.home(topic), topic), b.keys.topic("T", scope, topic), b.keys.topic("M", scope, topic)
}

// StateKey returns the key of a channel's state.
func StateKey(b *Broker, producer string) string {
	x, _ := b.decode(producer, false)
	return b.keys.key('s', x)
}

// NodesKey returns the key of the nodes that live.
func NodesKey(b *Broker) string { return b.keys.nodes() }

// BreakOff ends the walk, but visits nobody any more, as if its node had lost Redis for a moment.
func BreakOff(w *Walk) { w.w.end() }

// LateResync returns a request to resync that is sent when the function is called, as if it had come late.
func LateResync(sub broker.Subscription) func() error {
	s := sub.(*subscription)
	b := s.broker
	was, late := s.fence, &subscription{broker: b, x: s.x, limits: s.limits}
	b.subs.add(late)
	b.subs.remove(late)
	return func() error {
		_, err := b.subscribe(late, opening{fence: late.fence, mode: modeResume, was: was})
		return err
	}
}

// ChannelKeys returns the keys of a channel's state and messages.
func ChannelKeys(b *Broker, producer string) []string {
	x, _ := b.decode(producer, false)
	return []string{b.keys.key('s', x), b.keys.key('q', x)}
}

// FillAhead makes a node believe that it has as many messages as it may that readers have not taken.
func FillAhead(b *Broker) { b.aheadBytes.Add(maxAheadBytes + 1) }

// WaitingKeys returns the set of channels in which messages wait that a channel may be in, its name there, and the stream of channels
// to report.
func WaitingKeys(b *Broker, producer string) (set, member, stream string) {
	x, _ := b.decode(producer, false)
	return b.keys.waiting(x.partition()), string(x[:]), b.keys.unread(b.keys.scopeOf(x.partition()))
}

// IsTold reports whether messages wait in a channel, and that is to be reported or was.
func IsTold(b *Broker, producer string) bool {
	s, err := b.client.Do(b.background, b.client.B().Get().Key(StateKey(b, producer)).Build()).ToString()
	return err == nil && s[23] == 255
}

// TakeBackSome takes back so many reports, as a node does when nobody has wanted to know for a minute where messages wait.
func TakeBackSome(b *Broker, n int) error {
	look := waitingLook{owned: make([][]int, 1), looks: true}
	for p := range partitions {
		look.owned[0] = append(look.owned[0], p)
	}
	call := b.sweepCall(0, &look)
	call.args[1] = text(int64(n))
	return b.run(b.background, sweepScript, call.keys, call.args...).Error()
}

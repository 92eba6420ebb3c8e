package redis_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

var topicLimits = broker.Limits{
	Buffer: 100, InFlight: 100, Hold: time.Second, TTL: time.Minute, MaxChannels: 10_000, MaxMemory: 1 << 30, MaxTopics: 10,
	MaxMessage: 1 << 20,
}

// members creates channels that are members of a topic.
func members(t *testing.T, b *redis.Broker, topic string, n int) []broker.Addresses {
	t.Helper()
	all := make([]broker.Addresses, n)
	for i := range all {
		var err error
		if all[i], err = b.CreateMember(t.Context(), "agent", []broker.Join{{Topic: topic}}, topicLimits); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func topicMessage(t *testing.T, name, key string) *broker.Message {
	t.Helper()
	m, err := broker.NewMessage(name, []byte("null"), key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// publishes brings a message to a topic, and checks the reply.
func publishes(t *testing.T, b *redis.Broker, topic string, m *broker.Message, want broker.Published) {
	t.Helper()
	got, err := b.PublishTopic(t.Context(), topic, m, broker.FullMiss, topicLimits)
	if err != nil || got != want {
		t.Fatalf("a publish reports %+v, %v; want %+v", got, err, want)
	}
}

// has checks what a channel holds.
func has(t *testing.T, b *redis.Broker, a broker.Addresses, want ...string) {
	t.Helper()
	ms, err := b.Peek(t.Context(), a.Producer, 100)
	got := []string{}
	for _, m := range ms {
		got = append(got, m.StreamID())
	}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("a channel has %q, %v; want %q", got, err, want)
	}
}

func begin(t *testing.T, b *redis.Broker, topic string, m *broker.Message) *redis.Walk {
	t.Helper()
	w, err := redis.BeginWalk(t.Context(), b, topic, m, topicLimits)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// count counts the channels that hold one message, and those that hold none.
func count(t *testing.T, b *redis.Broker, all []broker.Addresses) (one, none int) {
	t.Helper()
	for _, a := range all {
		switch s, err := b.State(t.Context(), a.Producer); {
		case err != nil:
			t.Fatal(err)
		case s.Pending == 1:
			one++
		case s.Pending == 0:
			none++
		}
	}
	return one, none
}

// TestMembersComeAndGoInTheMiddleOfAPublish: who is a member when it begins gets the message once, unless it leaves before it is
// visited. Nobody else gets it.
func TestMembersComeAndGoInTheMiddleOfAPublish(t *testing.T) {
	t.Parallel()
	b := open(t, sharedServer(t).options("test:"+rand.Text()+":"))
	if err := b.KeepTopic(t.Context(), "news", broker.Keep{Bytes: 1 << 20, TTL: time.Hour}, topicLimits); err != nil {
		t.Fatal(err)
	}
	all := members(t, b, "news", 250)
	w := begin(t, b, "news", topicMessage(t, "1", ""))
	if w.Visited() != 100 {
		t.Fatalf("%d members are visited at first", w.Visited())
	}
	var visited, waiting []broker.Addresses
	for _, a := range all {
		if s, err := b.State(t.Context(), a.Producer); err != nil {
			t.Fatal(err)
		} else if s.Pending == 1 {
			visited = append(visited, a)
		} else {
			waiting = append(waiting, a)
		}
	}
	no := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range visited[:60] { // also the last one that was visited, most likely
		no(b.Leave(t.Context(), a.Producer, "news"))
	}
	for _, a := range visited[:30] {
		no(b.Join(t.Context(), a.Producer, broker.Join{Topic: "news"}, topicLimits))
	}
	for _, a := range visited[60:] {
		no(b.Delete(t.Context(), a.Producer))
	}
	left, again, deleted := waiting[0], waiting[1], waiting[2]
	no(b.Leave(t.Context(), left.Producer, "news"))
	no(b.Leave(t.Context(), again.Producer, "news"))
	no(b.Join(t.Context(), again.Producer, broker.Join{Topic: "news"}, topicLimits))
	no(b.Delete(t.Context(), deleted.Producer))
	later := members(t, b, "news", 1)[0]
	last, err := b.CreateMember(t.Context(), "agent", []broker.Join{{Topic: "news", Last: broker.LastAll}}, topicLimits)
	no(err)
	if got, err := w.GoOn(); err != nil || got != (broker.Published{Members: 247, Accepted: 247}) {
		t.Errorf("the publish reports %+v, %v", got, err)
	}
	for _, a := range []broker.Addresses{left, again, later} {
		has(t, b, a)
	}
	has(t, b, last, "1")
	if one, _ := count(t, b, append(waiting[3:], visited[:60]...)); one != 147+60 {
		t.Errorf("%d channels have the message once, want 207", one)
	}
	publishes(t, b, "news", topicMessage(t, "2", ""), broker.Published{Members: 147 + 30 + 3, Accepted: 147 + 30 + 3})
	has(t, b, last, "1", "2")
	has(t, b, again, "2")
}

// TestARepeatCompletesAPublishWhoseNodeIsGone: those that have the message do not get it twice. If the node was only slow, it does
// not go on when another message was published meanwhile.
func TestARepeatCompletesAPublishWhoseNodeIsGone(t *testing.T) {
	t.Parallel()
	o := sharedServer(t).options("test:" + rand.Text() + ":")
	gone, b := open(t, o), open(t, o)
	all := members(t, b, "news", 250)
	m := topicMessage(t, "1", "key")
	begin(t, gone, "news", m)
	if one, none := count(t, b, all); one != 100 || none != 150 {
		t.Fatalf("%d channels have the message, %d have not", one, none)
	}
	gone.Close() // it has the turn, and does not give it up
	begun := time.Now()
	publishes(t, b, "news", m, broker.Published{Members: 250, Accepted: 250})
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the turn of a node that is gone lasts %v", took)
	}
	if one, _ := count(t, b, all); one != 250 {
		t.Errorf("%d channels have the message once", one)
	}
}

// TestASlowPublishGivesWay: a node that stands still for longer than a turn lasts does not bring a message behind a later one.
func TestASlowPublishGivesWay(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	o := s.options("test:")
	slow, b := open(t, o), open(t, o)
	all := members(t, b, "news", 250)
	w := begin(t, slow, "news", topicMessage(t, "1", ""))
	home, _, _ := redis.TopicKeys(b, all[0].Producer, "news")
	s.command(t, "HSET", home, "until", "0") // the turn is over
	publishes(t, b, "news", topicMessage(t, "2", ""), broker.Published{Members: 250, Accepted: 250})
	if got, err := w.GoOn(); !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("the slow publish reports %+v, %v", got, err)
	}
	both := 0
	for _, a := range all {
		ms, err := b.Peek(t.Context(), a.Producer, 10)
		if err != nil || len(ms) > 2 || ms[len(ms)-1].StreamID() != "2" {
			t.Fatalf("a channel has %d messages, %v", len(ms), err)
		}
		both += len(ms) - 1
	}
	if both != 100 {
		t.Errorf("%d channels have both messages, want 100", both)
	}
	publishes(t, b, "news", topicMessage(t, "3", ""), broker.Published{Members: 250, Accepted: 250})
}

// TestPublishesOfTwoNodesTakeTurns: the second one waits until the first has ended, and its context ends the wait.
func TestPublishesOfTwoNodesTakeTurns(t *testing.T) {
	t.Parallel()
	o := sharedServer(t).options("test:" + rand.Text() + ":")
	first, second := open(t, o), open(t, o)
	all := members(t, first, "news", 150)
	w := begin(t, first, "news", topicMessage(t, "1", ""))
	done := make(chan error, 1)
	go func() {
		_, err := second.PublishTopic(t.Context(), "news", topicMessage(t, "2", ""), broker.FullMiss, topicLimits)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("a publish does not wait for its turn: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if _, err := w.GoOn(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 800*time.Millisecond { // it asks again after a second
		t.Errorf("the turn comes after %v", took)
	}
	for _, a := range all {
		has(t, first, a, "1", "2")
	}
}

// TestMembershipsOfLostChannelsAreCleanedUp: Redis may have lost a channel, or a server of an earlier version has deleted it. The next
// publish notices.
func TestMembershipsOfLostChannelsAreCleanedUp(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	b := open(t, s.options("test:"))
	all := members(t, b, "news", 3)
	s.command(t, "DEL", redis.StateKey(b, all[0].Producer))
	s.command(t, "DEL", redis.StateKey(b, all[1].Producer))
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{Members: 1, Accepted: 1})
	if i, err := b.Topic(t.Context(), "news"); err != nil || i.Members != 1 {
		t.Errorf("the topic is %+v, %v", i, err)
	}
	s.command(t, "DEL", redis.StateKey(b, all[2].Producer))
	publishes(t, b, "news", topicMessage(t, "2", ""), broker.Published{})
	if i, err := b.Topic(t.Context(), "news"); err != nil || i != (broker.TopicInfo{Name: "news"}) {
		t.Errorf("the topic is %+v, %v", i, err)
	}
	if s := b.Stats(); s.Topics != 0 || s.Memberships != 0 {
		t.Errorf("there are %d topics and %d memberships", s.Topics, s.Memberships)
	}
}

// TestNothingOfATopicIsLeft: when all channels and topics are gone, Redis has no key of them.
func TestNothingOfATopicIsLeft(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	b := open(t, s.options("test:"))
	a := members(t, b, "news", 1)[0]
	l := topicLimits
	l.Buffer = 1
	for i := range 300 {
		if _, err := b.PublishTopic(t.Context(), "news", topicMessage(t, "1", fmt.Sprint(i)), broker.FullMiss, l); err != nil {
			t.Fatal(err)
		}
	}
	kept := broker.Keep{Bytes: 1000, TTL: 10 * time.Millisecond}
	for _, topic := range []string{"news", "nobody's"} {
		if err := b.KeepTopic(t.Context(), topic, kept, l); err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			if _, err := b.PublishTopic(t.Context(), topic, topicMessage(t, "1", fmt.Sprint("kept ", i)), broker.FullMiss, l); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Delete(t.Context(), a.Producer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left but the nodes and what is to be reported", func() bool {
		keys, err := s.command(t, "KEYS", "*").AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		return len(keys) == 5 // the key of addresses, nodes, about, counters, deletions
	})
	if st := b.Stats(); st.Topics != 0 || st.KeptBytes != 0 || st.BufferedBytes != 0 {
		t.Errorf("the statistics are %+v", st)
	}
}

// TestAStalledReaderDelaysNoPublish: its node says at once that it has taken nothing more.
func TestAStalledReaderDelaysNoPublish(t *testing.T) {
	t.Parallel()
	o := sharedServer(t).options("test:" + rand.Text() + ":")
	b, other := open(t, o), open(t, o)
	a := members(t, b, "news", 1)[0]
	l := topicLimits
	l.Buffer = 2
	sub, err := other.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.End(broker.EndFault)
	const messages = 40
	begun, full := time.Now(), 0
	for range messages {
		got, err := b.PublishTopic(t.Context(), "news", topicMessage(t, "1", ""), broker.FullMiss, l)
		if err != nil {
			t.Fatal(err)
		}
		full += got.Full
	}
	if took := time.Since(begun); full != messages-l.Buffer || took > messages*70*time.Millisecond {
		t.Errorf("%d of %d messages are missed, in %v", full, messages, took)
	}
	if s := b.Stats(); s.HeldProducers != 0 || s.HeldBytes != 0 || s.Skipped != messages-2 {
		t.Errorf("%d calls wait with %d bytes, and %d messages were skipped", s.HeldProducers, s.HeldBytes, s.Skipped)
	}
}

// TestMemoryOfMembers: a membership takes 240 bytes of Redis at most beside its channel.
func TestMemoryOfMembers(t *testing.T) {
	s := newServer(t, "--zset-max-listpack-entries", "0") // as with many channels
	b := open(t, s.options(redis.DefaultKeyPrefix))
	const channels = 2048
	var each [2]int64
	for i, joins := range [][]broker.Join{{}, {{Topic: "news"}}} {
		before := int64(0)
		for range 2 { // what a topic takes does not count
			before = s.memory(t)
			for range channels {
				if _, err := b.CreateMember(t.Context(), "main", joins, topicLimits); err != nil {
					t.Fatal(err)
				}
			}
		}
		each[i] = (s.memory(t) - before) / channels
	}
	if member := each[1] - each[0]; member > 240 {
		t.Errorf("a membership takes %d bytes", member)
	} else {
		t.Logf("a membership takes %d bytes beside the %d of its channel", member, each[0])
	}
}

// TestClosingAgainCompletesAnEndWhoseNodeIsGone: those that have the end do not get another one, and all have the same.
func TestClosingAgainCompletesAnEndWhoseNodeIsGone(t *testing.T) {
	t.Parallel()
	o := sharedServer(t).options("test:" + rand.Text() + ":")
	gone, b := open(t, o), open(t, o)
	all := members(t, b, "news", 250)
	ends := map[string]*broker.Message{}
	for _, how := range []string{broker.EndAborted, broker.EndDone} {
		end, err := broker.NewEnd(how, how)
		if err != nil {
			t.Fatal(err)
		}
		ends[how] = end
	}
	if _, err := redis.BeginClose(t.Context(), gone, "news", ends[broker.EndAborted], topicLimits); err != nil {
		t.Fatal(err)
	}
	if one, none := count(t, b, all); one != 100 || none != 150 {
		t.Fatalf("%d channels have the end, %d have not", one, none)
	}
	gone.Close() // it has the turn, and does not give it up
	later := members(t, b, "news", 1)[0]
	for range 2 {
		if err := b.CloseTopic(t.Context(), "news", ends[broker.EndDone], topicLimits); err != nil {
			t.Fatal(err)
		}
	}
	if one, _ := count(t, b, all); one != 250 {
		t.Errorf("%d channels have an end", one)
	}
	has(t, b, all[0], broker.EndAborted)
	has(t, b, all[249], broker.EndAborted)
	has(t, b, later)
}

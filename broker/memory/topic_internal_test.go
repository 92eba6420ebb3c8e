package memory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// topicLimits are the limits of tests with topics.
func topicLimits() broker.Limits {
	l := brokerfixture.Limits
	l.MaxTopics, l.MaxChannels = 100, 2_000_000
	return l
}

// newMember creates a member of topics, and returns its channel too.
func newMember(tb testing.TB, b *Broker, l broker.Limits, topics ...string) (broker.Addresses, *channel) {
	tb.Helper()
	var joins []broker.Join
	for _, topic := range topics {
		joins = append(joins, broker.Join{Topic: topic})
	}
	a, err := b.CreateMember(tb.Context(), "main", joins, l)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := b.lookup(a.Producer, producerKind)
	if err != nil {
		tb.Fatal(err)
	}
	return a, c
}

// TestInTheMiddleOfAPublish one member is held up by another call. Meanwhile others join, leave, are deleted, and leave and
// join again; and a publish to another topic of the same members does not wait.
func TestInTheMiddleOfAPublish(t *testing.T) {
	t.Parallel()
	b := New()
	defer b.Close()
	l := topicLimits()
	var members []broker.Addresses
	var channels []*channel
	for range 600 {
		a, c := newMember(t, b, l, "news", "other")
		members, channels = append(members, a), append(channels, c)
	}
	const stalled = 300
	channels[stalled].mu.Lock()
	m := brokerfixture.Message(t)
	result := make(chan broker.Published)
	go func() {
		p, err := b.PublishTopic(t.Context(), "news", m, broker.FullMiss, l)
		if err != nil {
			t.Error(err)
		}
		result <- p
	}()
	has := func(a broker.Addresses) bool {
		ms, err := b.Peek(t.Context(), a.Consumer, 10)
		return err == nil && slices.Contains(ms, m)
	}
	for !has(members[stalled-1]) {
		time.Sleep(time.Millisecond)
	}
	for _, err := range []error{
		b.Delete(t.Context(), members[400].Consumer),
		b.Leave(t.Context(), members[401].Producer, "news"),
		b.Leave(t.Context(), members[402].Producer, "news"),
		b.Join(t.Context(), members[402].Producer, broker.Join{Topic: "news"}, l),
		b.Leave(t.Context(), members[10].Producer, "news"), // has it
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var joined []broker.Addresses
	for range 10 { // in the places of those that have left, and in a block that the walk has not come to yet
		a, _ := newMember(t, b, l, "news")
		joined = append(joined, a)
	}
	if p, err := b.PublishTopic(t.Context(), "none", m, broker.FullMiss, l); err != nil || p.Members != 0 {
		t.Errorf("%+v, error %v", p, err)
	}
	channels[stalled].mu.Unlock()
	if got, want := <-result, (broker.Published{Members: 597, Accepted: 597}); got != want {
		t.Errorf("%+v is reported, want %+v", got, want)
	}
	for i, a := range members {
		if want := i < 400 || i > 402; has(a) != want {
			t.Errorf("member %d has the message: %v", i, !want)
		}
	}
	if slices.ContainsFunc(joined, has) {
		t.Error("a channel that joined in the middle has the message")
	}
	if p, err := b.PublishTopic(t.Context(), "news", brokerfixture.Message(t), broker.FullMiss, l); err != nil || p.Members != 607 {
		t.Errorf("later %+v is reported, error %v", p, err)
	}
}

// TestAPanicDoesNotKeepATopic from later publishes.
func TestAPanicDoesNotKeepATopic(t *testing.T) {
	t.Parallel()
	b := New()
	defer b.Close()
	newMember(t, b, topicLimits(), "news")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("there was no panic")
			}
		}()
		w := &walk{broker: b, m: brokerfixture.Message(t), limits: topicLimits()}
		_ = w.run(t.Context(), "news", func(*topic) error { return nil }, func(*channel) { panic("a fault") })
	}()
	if p, err := b.PublishTopic(t.Context(), "news", brokerfixture.Message(t), broker.FullMiss, topicLimits()); err != nil || p.Accepted != 1 {
		t.Errorf("%+v is reported, error %v", p, err)
	}
}

// TestAPublishWaitsForItsTurnNoLongerThanItsCaller, nor than the Broker.
func TestAPublishWaitsForItsTurnNoLongerThanItsCaller(t *testing.T) {
	t.Parallel()
	b := New()
	_, c := newMember(t, b, topicLimits(), "news")
	c.mu.Lock()
	var all sync.WaitGroup
	all.Go(func() {
		_, _ = b.PublishTopic(t.Context(), "news", brokerfixture.Message(t), broker.FullMiss, topicLimits())
	})
	topic := b.findTopic("news")
	for len(topic.turn) == 0 {
		runtime.Gosched()
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.PublishTopic(canceled, "news", brokerfixture.Message(t), broker.FullMiss, topicLimits())
	if !errors.Is(err, canceled.Err()) {
		t.Errorf("error %v", err)
	}
	all.Go(func() {
		_, err := b.PublishTopic(t.Context(), "news", brokerfixture.Message(t), broker.FullMiss, topicLimits())
		if !errors.Is(err, broker.ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
	all.Go(b.Close)
	for !b.isClosed() {
		runtime.Gosched()
	}
	c.mu.Unlock()
	all.Wait()
}

// TestATopicForgetsKeys when many other keyed messages were let go since.
func TestATopicForgetsKeys(t *testing.T) {
	t.Parallel()
	b := New()
	defer b.Close()
	l := topicLimits()
	l.TopicKeep = broker.Keep{Bytes: brokerfixture.Message(t).Size() * 2, TTL: time.Hour}
	kept := func(key int) broker.EventID {
		m, err := broker.NewMessage("m", []byte("null"), fmt.Sprint(key))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.PublishTopic(t.Context(), "news", m, broker.FullMiss, l); err != nil {
			t.Fatal(err)
		}
		var last broker.EventID
		b.withTopic("news", &l, func(topic *topic) {
			all := topic.memory.kept
			last = all[len(all)-1].ID()
			if known := len(topic.memory.keys); known != len(all) {
				t.Fatalf("the topic keeps %d messages and %d keys", len(all), known)
			}
		})
		return last
	}
	newest := kept(0)
	for i := 1; i < 2*broker.KeyWindow; i++ {
		newest = kept(i)
	}
	if kept(2*broker.KeyWindow-2) != newest || kept(broker.KeyWindow+1) != newest {
		t.Error("a repeat is kept once more")
	}
	if kept(0) != broker.KeyedEventID("0") {
		t.Error("a topic remembers a key for too long")
	}
}

// TestMembersThatWaitAreBounded, in number and by the memory that held messages may take. Beyond that, members miss the message.
func TestMembersThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	b := New()
	defer b.Close()
	l := topicLimits()
	l.Buffer, l.Hold = 1, time.Hour
	newMember(t, b, l, "news")
	for _, test := range []struct {
		waiters, held int64
		want          broker.Published
	}{
		{0, 0, broker.Published{Members: 1, Accepted: 1}},
		{maxWaitingMembers, 0, broker.Published{Members: 1, Full: 1}},
		{0, l.MaxMemory / 16, broker.Published{Members: 1, Full: 1}},
	} {
		b.waiters.Store(test.waiters)
		b.budget.held.Store(test.held)
		p, err := b.PublishTopic(t.Context(), "news", brokerfixture.Message(t), broker.FullHold, l)
		if err != nil || p != test.want {
			t.Errorf("%+v is reported, want %+v; error %v", p, test.want, err)
		}
	}
}

// TestNothingIsLeftOfWhatIsOver: neither what a channel has missed, once the messages that said it were settled, nor a topic that
// has ceased to exist.
func TestNothingIsLeftOfWhatIsOver(t *testing.T) {
	t.Parallel()
	b := New()
	defer b.Close()
	l := topicLimits()
	l.Buffer, l.InFlight = 1, 1
	a, c := newMember(t, b, l, "news")
	sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l, Follow: true, Acknowledged: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		for range 2 { // the second one is missed
			if _, err := b.PublishTopic(t.Context(), "news", brokerfixture.Message(t), broker.FullMiss, l); err != nil {
				t.Fatal(err)
			}
		}
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) != 1 || i > 0 && !strings.Contains(string(ms[0].Line()), `"missed":1`) {
			t.Fatalf("the reader took %d messages: %s", len(ms), ms[0].Line())
		}
		sub.Settle(ms[0].ID())
	}
	if m := c.marks(); m.notes != nil || m.missed != 1 || m.outside != nil {
		t.Errorf("of a channel without messages %d notes are left, and %d messages are missed", len(m.notes), m.missed)
	}
	if err := b.Leave(t.Context(), a.Producer, "news"); err != nil {
		t.Fatal(err)
	}
	for topic := range b.topics.list.all() {
		t.Errorf("the topic %s is left", topic.name)
	}
}

// TestMembersKeepTheirPlaces whoever comes and goes, there are no more blocks than the most members took, and empty ones at the end
// go.
func TestMembersKeepTheirPlaces(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	var ms members
	var all []*channel // by age
	places := map[*channel]int{}
	most := 0
	check := func() {
		t.Helper()
		found := 0
		for i := range ms.blocks {
			slots, _ := ms.block(nil, i)
			for j, s := range slots {
				if s.channel != nil {
					if found++; places[s.channel] != i*blockSize+j {
						t.Fatalf("seed %d: a member is at %d, want %d", seed, i*blockSize+j, places[s.channel])
					}
				}
			}
		}
		if found != len(places) || ms.count != found || len(ms.blocks) > (most+blockSize-1)/blockSize {
			t.Fatalf("seed %d: there are %d members in %d blocks, the count is %d, want %d; there were at most %d",
				seed, found, len(ms.blocks), ms.count, len(places), most)
		}
	}
	for _, phase := range []struct {
		grow   int  // of ten steps, how many add a member
		newest bool // whether the others remove the newest one
	}{{9, false}, {5, false}, {1, false}, {9, false}, {3, true}, {9, false}, {5, false}, {0, false}} {
		for range 5000 {
			if random.IntN(10) < phase.grow {
				c := new(channel)
				places[c] = ms.add(slot{channel: c})
				all = append(all, c)
				most = max(most, len(all))
			} else if n := len(all); n > 0 {
				i := random.IntN(n)
				if phase.newest {
					i = n - 1
				}
				ms.remove(places[all[i]])
				delete(places, all[i])
				all = slices.Delete(all, i, i+1)
			}
		}
		check()
	}
	for _, c := range all {
		ms.remove(places[c])
	}
	if ms.blocks != nil || ms.roomy != nil {
		t.Errorf("seed %d: %d blocks are left", seed, len(ms.blocks))
	}
}

// TestAMembershipTakesLittleMemory: at most 40 bytes in a topic with many members, whether it is a channel's first topic or not.
func TestAMembershipTakesLittleMemory(t *testing.T) {
	b := New()
	defer b.Close()
	l := topicLimits()
	const n = 20_000
	var channels []*channel
	for range n {
		_, c := newMember(t, b, l)
		channels = append(channels, c)
	}
	var all float64
	for i := range 9 {
		before := heapInUse()
		for _, c := range channels {
			c.mu.Lock()
			if err := c.join(broker.Join{Topic: fmt.Sprint(i)}, &l); err != nil {
				t.Fatal(err)
			}
			c.mu.Unlock()
		}
		bytes := float64(heapInUse()-before) / n
		if all += bytes; i == 0 && bytes > 40 || i > 3 && all/float64(i+1) > 52 {
			t.Errorf("membership %d of each channel takes %.1f bytes; all take %.1f on average", i+1, bytes, all/float64(i+1))
		}
		t.Logf("membership %d of each channel takes %.1f bytes; all take %.1f on average", i+1, bytes, all/float64(i+1))
	}
}

// heapInUse returns how many bytes are in use.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

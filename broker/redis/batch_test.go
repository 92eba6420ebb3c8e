package redis_test

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A mailbox is a channel, with the names of the messages that it has accepted, and that its reader has got.
type mailbox struct {
	broker.Addresses

	mu            sync.Mutex
	accepted, got []string
}

// read reads until the test ends.
func (m *mailbox) read(t *testing.T, b broker.Broker, l broker.Limits) {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), m.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.End(broker.EndFault) })
	go func() {
		taken := 0
		for {
			select {
			case <-sub.Ready():
			case <-t.Context().Done():
				return
			}
			ms, _ := sub.Take(nil, 1<<20)
			taken += len(ms)
			sub.Received(taken)
			m.mu.Lock()
			for _, message := range ms {
				m.got = append(m.got, message.StreamID())
			}
			m.mu.Unlock()
		}
	}()
}

// check waits until the reader has got what the channel has accepted, in the order of each producer.
func (m *mailbox) check(t *testing.T, what string) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		accepted, got := slices.Sorted(slices.Values(m.accepted)), slices.Clone(m.got)
		m.mu.Unlock()
		if len(got) < len(accepted) && time.Now().Before(limit) {
			continue
		}
		last := map[string]string{}
		for _, name := range got {
			producer, number, _ := strings.Cut(name, " ")
			if number <= last[producer] {
				t.Errorf("%s: message %s of producer %s comes after %s", what, number, producer, last[producer])
			}
			last[producer] = number
		}
		if slices.Sort(got); !slices.Equal(got, accepted) {
			t.Errorf("%s: accepted were %q, and %q came", what, accepted, got)
		}
		return
	}
}

// TestManyWriteToManyChannels: producers write to the same hundred channels at once, so that a call to Redis carries several
// messages for each of them. Some messages have a key, are large, may be merged, or are for a smaller buffer.
func TestManyWriteToManyChannels(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	writer, other := open(t, o), open(t, o)
	l := broker.Limits{Buffer: 60, InFlight: 100, TTL: time.Minute, MaxChannels: 1000, MaxMemory: 1 << 30, MaxMessage: 1 << 20}
	small := l
	small.InFlight = 3
	kinds := []struct {
		what     string
		limits   broker.Limits
		readsNow bool
	}{{"a channel with a reader", l, true}, {"a reader with a small window", small, true}, {"a channel that is read later", l, false}}
	all, addresses := make([]*mailbox, 100), make([]string, 100)
	for i := range all {
		a, err := writer.Create(t.Context(), "agent", l)
		if err != nil {
			t.Fatal(err)
		}
		all[i], addresses[i] = &mailbox{Addresses: a}, a.Producer
		if kind := kinds[i%len(kinds)]; kind.readsNow {
			all[i].read(t, other, kind.limits)
		}
	}
	var writing sync.WaitGroup
	for p := range 8 {
		writing.Go(func() {
			for n := range 12 {
				name, body, key, limits := fmt.Sprintf("%d %02d", p, n), `"x"`, "", l
				switch (p + n) % 6 {
				case 1:
					key = rand.Text()
				case 2:
					body = `"` + strings.Repeat("x", 9000) + `"`
				case 3:
					limits.Buffer = 20
				}
				m, err := broker.NewMessage(name, []byte(body), key)
				if err != nil {
					t.Error(err)
					return
				}
				if (p+n)%6 == 4 {
					m = m.WithMerge(broker.MergeReplace) // each message has a stream of its own
				}
				for i, outcome := range writer.PublishBatch(t.Context(), addresses, []*broker.Message{m}, limits) {
					if outcome.Err == nil {
						all[i].mu.Lock()
						all[i].accepted = append(all[i].accepted, name)
						all[i].mu.Unlock()
					}
				}
			}
		})
	}
	writing.Wait()
	for i, m := range all {
		kind := kinds[i%len(kinds)]
		if !kind.readsNow {
			m.read(t, other, kind.limits)
		}
		m.check(t, kind.what)
	}
}

// TestAPushIsNotOutOfOrder: a call pushes several messages to several readers of one node, each message once. Each reader has them in
// order, or it would ask Redis for what it seems to miss.
func TestAPushIsNotOutOfOrder(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	writer, b := open(t, o), open(t, o)
	producers, subs := make([]string, 3), make([]broker.Subscription, 3)
	for i := range producers {
		a := create(t, writer)
		producers[i], subs[i] = a.Producer, subscribe(t, b, a.Consumer)
	}
	for round := range 10 {
		ms, names := make([]*broker.Message, 30), make([]string, 30)
		for i := range ms {
			names[i] = fmt.Sprint(round, " ", i)
			ms[i] = topicMessage(t, names[i], rand.Text())
		}
		for _, outcome := range writer.PublishBatch(t.Context(), producers, ms, faultLimits) {
			if outcome.Err != nil {
				t.Fatal(outcome.Err)
			}
		}
		for _, sub := range subs {
			takes(t, sub, names...)
			sub.Received(len(names) * (round + 1))
		}
	}
	if lost := b.StoreStats().LostPushes; lost > 0 {
		t.Errorf("%d pushes seem to be lost", lost)
	}
}

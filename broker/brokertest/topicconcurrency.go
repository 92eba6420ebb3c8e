package brokertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicConcurrencyTests = group{
	"channels come and go while messages are published": comeAndGo,
	"publishes of a topic have one order": func(s *suite) {
		t := s.topics()
		t.limits.Buffer, t.limits.InFlight = 1000, 1000
		var members []broker.Addresses
		for range 5 {
			members = append(members, t.member("news"))
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 25 {
					if got, err := t.publishNumber("news", 0); err != nil || got.Accepted != 5 {
						t.Errorf("%+v, error %v", got, err)
					}
				}
			})
		}
		all.Wait()
		want := t.subscribe(members[0].Consumer).next(100)
		for _, a := range members[1:] {
			if got := t.subscribe(a.Consumer).next(100); !same(got, want) {
				t.Error("two members have the messages in different orders")
			}
		}
	},
	"the end comes once, after all else": func(s *suite) {
		t := s.topics()
		t.limits.Buffer, t.limits.InFlight = 1000, 1000
		t.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Hour}
		joins := []broker.Join{{Topic: "news", Last: broker.LastAll}}
		var all sync.WaitGroup
		var members [10]broker.Addresses
		for i := range members {
			all.Go(func() {
				for range i {
					t.publishNumber("news", i) // in vain, once it is closed
				}
				members[i], _ = t.CreateMember(t.Context(), "agent", joins, t.limits)
			})
		}
		all.Go(func() { t.end("news") })
		all.Wait()
		for _, a := range members {
			if got := t.subscribe(a.Consumer).next(t.info("news").Kept + 1); got[len(got)-1].End() != broker.EndDone {
				t.Errorf("a member got %q", lines(got))
			}
		}
	},
}

// publishNumber publishes a message whose stream is a number. It may be called in any goroutine.
func (t *topical) publishNumber(topic string, n int) (broker.Published, error) {
	m, err := broker.NewMessage("n"+strconv.Itoa(n), []byte("null"), "")
	if err != nil {
		return broker.Published{}, err
	}
	return t.PublishTopic(t.Context(), topic, m, broker.FullMiss, t.limits)
}

// numberOf returns the number of such a message.
func numberOf(m *broker.Message) (n int) {
	_, _ = fmt.Sscanf(m.StreamID(), "n%d", &n)
	return n
}

// A visitor is a channel that joins a topic for a while.
type visitor struct {
	t    *topical
	a    broker.Addresses
	last int
	from int // so many were published before it joined
	to   int // so many were begun when it had left
	ms   []*broker.Message
}

// comeAndGo publishes numbers to a topic that keeps all of them, while channels join, read, leave and are deleted. Each has got
// numbers without a gap and in order: from the first one if it has asked for what is kept.
func comeAndGo(s *suite) {
	t := s.topics()
	count, visitors := 300, 20
	if t.realTime {
		count, visitors = 50, 10
	}
	t.limits.Buffer, t.limits.InFlight, t.limits.MaxChannels = 2*count, 2*count, 10_000
	t.keep("news", 1<<30, time.Hour)
	stays := t.member("news")
	var begun, done atomic.Int64
	var all sync.WaitGroup
	over := make(chan struct{})
	all.Go(func() {
		defer close(over)
		for i := range count {
			begun.Add(1)
			if _, err := t.publishNumber("news", i); err != nil {
				t.Errorf("publish fails with %v", err)
			}
			done.Add(1)
		}
	})
	var mu sync.Mutex
	var seen []*visitor
	for range visitors {
		all.Go(func() {
			for range 10 {
				v := &visitor{t: t, last: rand.IntN(2) * broker.LastAll, from: int(done.Load())}
				if !v.visit(over) {
					return
				}
				v.to = int(begun.Load())
				mu.Lock()
				seen = append(seen, v)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for _, v := range seen {
		v.check()
	}
	if got := t.subscribe(stays.Consumer).next(count); !slices.IsSortedFunc(got, func(a, b *broker.Message) int {
		return numberOf(a) - numberOf(b)
	}) || numberOf(got[0]) != 0 {
		t.Error("the member that stays has not got all messages in order")
	}
	t.has("news", 1, 1)
}

// visit joins, waits a little, and leaves or is deleted. It reports false if that fails.
func (v *visitor) visit(over <-chan struct{}) bool {
	t := v.t
	var err error
	if v.a, err = t.CreateMember(t.Context(), "agent", []broker.Join{{Topic: "news", Last: v.last}}, t.limits); err != nil {
		t.Errorf("create fails with %v", err)
		return false
	}
	sub, err := t.trySubscribe(v.a.Consumer, follow)
	if err != nil {
		t.Errorf("subscribe fails with %v", err)
		return false
	}
	for range rand.IntN(4) {
		select {
		case <-sub.Ready():
			v.ms, _ = sub.Take(v.ms, allBytes)
		case <-over:
		}
	}
	if rand.IntN(3) == 0 {
		err = t.Delete(t.Context(), v.a.Consumer)
	} else if err = t.Leave(t.Context(), v.a.Producer, "news"); err == nil {
		for len(sub.Ready()) > 0 { // what was published before it left
			<-sub.Ready()
			v.ms, _ = sub.Take(v.ms, allBytes)
		}
		err = t.Delete(t.Context(), v.a.Consumer)
	}
	if err != nil {
		t.Errorf("leaving fails with %v", err)
	}
	return err == nil
}

// check checks what the visitor got.
func (v *visitor) check() {
	for i, m := range v.ms {
		switch n := numberOf(m); {
		case i > 0 && n != numberOf(v.ms[i-1])+1:
			v.t.Fatalf("a member got %d after %d", n, numberOf(v.ms[i-1]))
		case i == 0 && v.last == broker.LastAll && n != 0:
			v.t.Fatalf("a member that asked for all got %d first", n)
		case i == 0 && v.last == 0 && n < v.from:
			v.t.Fatalf("a member got %d first, which was published before it joined", n)
		case n >= v.to:
			v.t.Fatalf("a member got %d, which was published after it had left", n)
		}
	}
}

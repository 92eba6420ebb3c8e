package brokertest

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var waitingTests = group{
	"messages that nobody reads are reported once": func(s *suite) {
		l := s.waiting()
		a, b, empty := s.create(), s.create(), s.create()
		before := time.Now()
		s.publish(a.Producer, "1", "2")
		s.publish(b.Producer, "1")
		published := time.Now()
		l.isSilent()
		l.reports(map[string]int{a.Consumer: 2, b.Consumer: 1})
		l.since(a.Consumer, before, published)
		s.publish(a.Producer, "3")
		s.publish(empty.Producer, "1")
		l.reports(map[string]int{empty.Consumer: 1})
		l.passes()
		l.reports(nil)
	},
	"they are reported again after a reader has come and left": func(s *suite) {
		l := s.waiting()
		a := s.create()
		s.publish(a.Producer, "1", "2")
		l.reports(map[string]int{a.Consumer: 2})
		r := s.subscribe(a.Consumer)
		r.one() // which does not arrive
		l.passes()
		l.reports(nil)
		before := time.Now()
		r.End(broker.EndFault)
		l.isSilent()
		l.reports(map[string]int{a.Consumer: 2})
		l.since(a.Consumer, before, before)
	},
	"a reader that only looks in begins the time anew": func(s *suite) {
		l := s.waiting()
		a := s.create()
		s.publish(a.Producer, "1")
		for range 3 {
			time.Sleep(l.after / 2)
			s.subscribe(a.Consumer).End(broker.EndClean)
		}
		before := time.Now()
		l.reports(map[string]int{a.Consumer: 1})
		l.since(a.Consumer, before.Add(-time.Second), before)
	},
	"what has reached the reader's machine does not wait": func(s *suite) {
		l := s.waiting()
		a := s.create()
		r := s.subscribe(a.Consumer, follow)
		s.publish(a.Producer, "1", "2")
		r.next(2)
		r.received()
		r.End(broker.EndFault)
		l.passes()
		l.reports(nil)
		r = s.subscribe(a.Consumer, follow)
		r.next(2) // once more
		s.publish(a.Producer, "3")
		r.next(1)
		r.Received(2)
		s.publish(a.Producer, "4")
		r.End(broker.EndFault)
		l.reports(map[string]int{a.Consumer: 2})
	},
	"what a read without cursors has brought waits if that breaks off": func(s *suite) {
		l := s.waiting()
		a := s.create()
		r := s.subscribe(a.Consumer)
		s.publish(a.Producer, "1", "2")
		r.next(2)
		r.received()
		r.End(broker.EndFault)
		l.reports(map[string]int{a.Consumer: 2})
	},
	"what readers have not acknowledged waits": func(s *suite) {
		l := s.waiting()
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.next(3)
		r.received()
		r.Settle(ms[0].ID())
		s.holds(a.Consumer, 0, 2)
		r.End(broker.EndClean)
		l.reports(map[string]int{a.Consumer: 2})
		r = s.subscribe(a.Consumer, acknowledged)
		r.next(2)
		r.Settle(ms[2].ID())
		s.holds(a.Consumer, 0, 0)
		r.End(broker.EndClean)
		l.passes()
		l.reports(nil)
	},
	"a value that is replaced all the time waits": func(s *suite) {
		l := s.waiting()
		a := s.create()
		ended := time.Now().Add(l.after + l.late())
		for time.Now().Before(ended) {
			s.send(a.Producer, s.message("price").WithMerge(broker.MergeReplace))
			time.Sleep(l.after / 20)
		}
		if got := l.seen(1); len(got) != 1 || got[a.Consumer].Messages != 1 {
			s.Errorf("%v is reported, want one message of the channel", got)
		}
	},
	"messages wait however they come": func(s *suite) {
		l := s.waiting()
		t := s.topics()
		first := s.create()
		s.publish(first.Producer, "1")
		l.reports(map[string]int{first.Consumer: 1}) // so the Broker has looked
		want := map[string]int{}
		expect := func(a broker.Addresses, messages int) broker.Addresses {
			want[a.Consumer] = messages
			return a
		}
		s.publish(expect(s.create(), 1).Producer, "1")
		s.send(expect(s.create(), 1).Producer, s.keyed("1", "key"))
		batch := []string{expect(s.create(), 2).Producer, expect(s.create(), 2).Producer}
		for _, outcome := range s.PublishBatch(s.Context(), batch, []*broker.Message{s.message("1"), s.message("2")}, s.limits) {
			s.no(outcome.Err)
		}
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 1, []byte(expect(s.create(), 1).Producer), s.message("1")))
		s.finishes(in, 1)
		text := expect(s.create(), 1)
		s.send(text.Producer, s.appends("1", `"a"`))
		s.send(text.Producer, s.appends("1", `"b"`))
		expect(t.member("news"), 2)
		expect(t.member("news"), 2)
		t.tells("news", "1")
		t.tell("news", s.keyed("2", "key"), broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
		expect(t.member("ending"), 1)
		t.end("ending")
		l.reports(want)
	},
	"what has waited for room waits once a reader has made some and left": func(s *suite) {
		l := s.waiting()
		first, a := s.create(), s.create()
		s.publish(first.Producer, "1")
		l.reports(map[string]int{first.Consumer: 1}) // so the Broker has looked
		ms := s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		r := s.subscribe(a.Consumer)
		r.next(s.limits.InFlight)
		s.no(s.returned(held))
		r.End(broker.EndFault)
		l.reports(map[string]int{a.Consumer: len(ms) + 1})
	},
	"a message that a topic has kept waits since the channel has joined": func(s *suite) {
		l := s.waiting()
		t := s.topics()
		t.keep("news", 10_000, 10*time.Hour)
		t.tells("news", "1", "2")
		a := t.create()
		time.Sleep(l.after)
		before := time.Now()
		t.join(a, "news", broker.LastAll)
		joined := time.Now()
		l.isSilent()
		l.reports(map[string]int{a.Consumer: 2})
		l.since(a.Consumer, before, joined)
	},
	"messages are reported once somebody wants to know": func(s *suite) {
		l := s.waiting()
		l.wanted.Store(0)
		a, told := s.create(), s.create()
		before := time.Now()
		s.publish(a.Producer, "1")
		l.passes()
		l.reports(nil)
		l.wanted.Store(int64(l.after))
		l.reports(map[string]int{a.Consumer: 1})
		l.since(a.Consumer, before, before)
		l.wanted.Store(0)
		s.publish(told.Producer, "1")
		l.wanted.Store(int64(l.after / 2))
		l.reports(map[string]int{told.Consumer: 1})
	},
	"channels that are gone are not reported": func(s *suite) {
		l := s.waiting()
		a, b := s.create(), s.create()
		s.publish(a.Producer, "1")
		s.publish(b.Producer, "1")
		s.expire(a.Consumer)
		s.delete(b.Consumer)
		if !s.realTime { // or else the channel may outlive the wait
			l.wanted.Store(int64(s.limits.TTL))
			l.passes()
			l.reports(nil)
		}
		s.closes()
		l.reports(nil)
	},
	"a batch has at most 10,000 channels that wait": func(s *suite) {
		if s.realTime {
			s.Skip("it takes a while to create so many channels in a store")
		}
		l := s.waiting()
		s.limits.MaxChannels = 2 * maxDeletions
		want := map[string]int{}
		m := s.message("m")
		for range maxDeletions + 1 {
			a := s.create()
			s.send(a.Producer, m)
			want[a.Consumer] = 1
		}
		l.reports(want)
	},
}

// A waitingLog collects the channels that a Broker reports because messages wait.
type waitingLog struct {
	s         *suite
	after     time.Duration
	wanted    atomic.Int64 // the time that the Broker is told
	reporting atomic.Bool

	mu   sync.Mutex
	got  map[string]broker.Waiting // by consumer address, since reports was called last
	last map[string]broker.Waiting // what that has seen
}

func (s *suite) waiting() *waitingLog {
	s.Helper()
	l := &waitingLog{s: s, after: s.pick(30*time.Second, time.Second), got: map[string]broker.Waiting{}}
	s.limits.TTL = s.pick(10*time.Minute, s.limits.TTL)
	l.wanted.Store(int64(l.after))
	implementing[broker.WaitingSource](s).OnWaiting(func() time.Duration { return time.Duration(l.wanted.Load()) }, l.report)
	return l
}

func (l *waitingLog) report(batch []broker.Waiting) {
	if l.reporting.Swap(true) {
		l.s.Error("two reports come at once")
	}
	defer l.reporting.Store(false)
	if len(batch) == 0 || len(batch) > maxDeletions {
		l.s.Errorf("a batch has %d channels", len(batch))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range batch {
		if _, ok := l.got[w.Consumer()]; ok {
			l.s.Errorf("%s is reported twice", w.Consumer())
		}
		l.got[w.Consumer()] = w
	}
}

// late is how late a report may be.
func (l *waitingLog) late() time.Duration { return l.after/10 + sweep }

// isSilent checks that nothing is reported before messages have waited for long enough. In a bubble that time passes.
func (l *waitingLog) isSilent() {
	l.s.Helper()
	time.Sleep(l.s.pick(l.after-time.Second, 0))
	l.seen(0)
}

// passes waits until the Broker has looked, whether there is something to report or not.
func (l *waitingLog) passes() { time.Sleep(l.after + l.late()) }

// seen returns what was reported since reports was called last, once it is enough.
func (l *waitingLog) seen(enough int) (got map[string]broker.Waiting) {
	l.s.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.got)
	}
	l.s.eventually(func() bool { return count() >= enough })
	l.mu.Lock()
	defer l.mu.Unlock()
	if enough == 0 && len(l.got) > 0 {
		l.s.Errorf("%v is reported", l.got)
	}
	return l.got
}

// reports checks what was reported since the last call: how many messages wait, by consumer address. It waits for what is wanted.
func (l *waitingLog) reports(want map[string]int) {
	l.s.Helper()
	if len(want) > 0 && !l.s.realTime {
		l.passes()
	}
	got := map[string]int{}
	all := l.seen(len(want))
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, w := range all {
		if got[address] = w.Messages; w.Messages != want[address] {
			l.s.Errorf("%d messages of %s are reported, want %d", w.Messages, address, want[address])
		}
	}
	if len(got) != len(want) {
		l.s.Fatalf("%d channels are reported, want %d", len(got), len(want))
	}
	l.last, l.got = l.got, map[string]broker.Waiting{}
}

// since checks since when the messages of a channel have waited that was just reported.
func (l *waitingLog) since(consumer string, from, to time.Time) {
	l.s.Helper()
	l.s.isTime("the time since when messages wait", l.last[consumer].Since, from, to)
}

package brokertest

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// maxDeletions is how many deletions a batch has at most.
const maxDeletions = 10_000

var deletionTests = group{
	"each deletion is reported once": func(s *suite) {
		l := s.deletions()
		empty, full, expired := s.create(), s.create(), s.create()
		s.publish(full.Producer, "1", "2", "3")
		s.subscribe(full.Consumer).next(3)
		s.publish(full.Producer, "4")
		s.publish(expired.Producer, "1", "2")
		s.delete(empty.Producer)
		s.delete(full.Consumer)
		s.is(s.Delete(s.Context(), full.Consumer), broker.ErrNotFound)
		if expires := s.expire(expired.Consumer); !s.realTime {
			time.Sleep(time.Until(expires) + sweep)
		}
		l.wants(map[string]broker.Deletion{
			empty.Consumer:   {Reason: broker.EndDeleted},
			full.Consumer:    {Reason: broker.EndDeleted, Undelivered: 4},
			expired.Consumer: {Reason: broker.EndExpired, Undelivered: 2},
		})
		time.Sleep(s.pick(time.Minute, 0))
		l.source.FlushDeletions()
		l.wants(map[string]broker.Deletion{
			empty.Consumer:   {Reason: broker.EndDeleted},
			full.Consumer:    {Reason: broker.EndDeleted, Undelivered: 4},
			expired.Consumer: {Reason: broker.EndExpired, Undelivered: 2},
		})
	},
	"settled messages are not undelivered": func(s *suite) {
		l := s.deletions()
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		r := s.subscribe(a.Consumer)
		r.next(3)
		r.Settle(ms[1].ID())
		s.holds(a.Consumer, 0, 1)
		s.delete(a.Consumer)
		l.source.FlushDeletions()
		l.wants(map[string]broker.Deletion{a.Consumer: {Reason: broker.EndDeleted, Undelivered: 1}})
	},
	"deletions are reported about once a second": func(s *suite) {
		l := s.deletions()
		a, b := s.create(), s.create()
		s.delete(a.Consumer)
		s.delete(b.Consumer)
		time.Sleep(s.pick(2*time.Second, 0))
		want := map[string]broker.Deletion{a.Consumer: {Reason: broker.EndDeleted}, b.Consumer: {Reason: broker.EndDeleted}}
		l.wants(want)
		if batches := l.reported(); !s.realTime && len(batches) != 1 {
			s.Errorf("two deletions are reported in %d batches", len(batches))
		}
	},
	"a flush reports at once": func(s *suite) {
		l := s.deletions()
		a := s.create()
		s.delete(a.Consumer)
		l.source.FlushDeletions()
		if got := l.seen(); len(got) != 1 {
			s.Errorf("%v is reported after a flush", got)
		}
		l.source.FlushDeletions() // there is nothing
		l.wants(map[string]broker.Deletion{a.Consumer: {Reason: broker.EndDeleted}})
	},
	"a batch has at most 10,000 deletions": func(s *suite) {
		if s.realTime {
			s.Skip("it takes a while to create so many channels in a store")
		}
		l := s.deletions()
		s.limits.MaxChannels = 2 * maxDeletions
		want := map[string]broker.Deletion{}
		for range maxDeletions + 1 {
			want[s.create().Consumer] = broker.Deletion{Reason: broker.EndExpired}
		}
		time.Sleep(s.limits.TTL + sweep)
		l.wants(want)
	},
	"close reports what was not reported yet, but not what it deletes itself": func(s *suite) {
		l := s.deletions()
		a := s.create()
		s.create()
		s.delete(a.Consumer)
		s.closes()
		l.wants(map[string]broker.Deletion{a.Consumer: {Reason: broker.EndDeleted}})
		l.source.FlushDeletions() // returns
	},
	"the Broker does not reuse a reported slice": func(s *suite) {
		l := s.deletions()
		for range 3 {
			a := s.create()
			s.delete(a.Consumer)
			l.source.FlushDeletions()
		}
		for _, batch := range l.reported() {
			if want := l.seen()[batch[0].Consumer()]; len(batch) != 1 || batch[0] != want {
				s.Errorf("a batch has changed to %v", batch)
			}
		}
	},
}

// A deletionLog collects what a Broker reports.
type deletionLog struct {
	s         *suite
	source    broker.DeletionSource
	reporting atomic.Bool

	mu      sync.Mutex
	all     map[string]broker.Deletion // by consumer address
	batches [][]broker.Deletion
}

func (s *suite) deletions() *deletionLog {
	s.Helper()
	l := &deletionLog{s: s, source: implementing[broker.DeletionSource](s), all: map[string]broker.Deletion{}}
	l.source.OnDeletions(l.report)
	return l
}

func (l *deletionLog) report(batch []broker.Deletion) {
	if l.reporting.Swap(true) {
		l.s.Error("two reports come at once")
	}
	defer l.reporting.Store(false)
	if len(batch) == 0 || len(batch) > maxDeletions {
		l.s.Errorf("a batch has %d deletions", len(batch))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches = append(l.batches, batch)
	for _, d := range batch {
		if _, ok := l.all[d.Consumer()]; ok {
			l.s.Errorf("the deletion of %s is reported twice", d.Consumer())
		}
		l.all[d.Consumer()] = d
	}
}

// seen returns what was reported until now.
func (l *deletionLog) seen() map[string]broker.Deletion {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.all)
}

// reported returns the batches in which it was reported.
func (l *deletionLog) reported() [][]broker.Deletion {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.batches)
}

// wants checks what was reported, by consumer address. The deletions in want need no address.
func (l *deletionLog) wants(want map[string]broker.Deletion) {
	l.s.Helper()
	var got map[string]broker.Deletion
	l.s.eventually(func() bool {
		got = l.seen()
		return len(got) >= len(want)
	})
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		l.s.Fatalf("%d deletions are reported, want %d", len(got), len(want))
	}
	for address, d := range got {
		if w := want[address]; d.Reason != w.Reason || d.Undelivered != w.Undelivered {
			l.s.Errorf("the deletion of %s is reported as %+v, want %+v", address, d, w)
		}
	}
}

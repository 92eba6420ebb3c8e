package brokertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var statsTests = group{
	"a new Broker counts nothing": func(s *suite) {
		s.counts(func(*broker.Stats) {})
	},
	"counters follow a channel's life": countersFollowAChannel,
	"held producers are counted until they get in or give up": func(s *suite) {
		implementing[broker.Statser](s)
		a := s.create()
		ms := s.fill(a.Producer)
		size := totalSize(ms)
		long := s.limits
		s.shortHold()
		start := time.Now()
		m := s.message("refused")
		refused := s.begin(s.Context(), a.Producer, m)
		if !s.realTime {
			s.counts(func(t *broker.Stats) {
				t.Channels, t.Created, t.Accepted, t.Pending, t.BufferedBytes = 1, 1, 4, 4, size
				t.HeldProducers, t.HeldBytes = 1, m.Size()
			})
		}
		s.returnsAfterHold(refused, start, broker.ErrTimeout)
		s.limits = long
		s.counts(func(t *broker.Stats) {
			t.Channels, t.Created, t.Accepted, t.Pending, t.BufferedBytes, t.RefusedFull = 1, 1, 4, 4, size, 1
		})
		m = s.message("held")
		held := s.holdMessage(s.Context(), a.Producer, m)
		s.counts(func(t *broker.Stats) {
			t.Channels, t.Created, t.Accepted, t.Pending, t.BufferedBytes, t.RefusedFull = 1, 1, 4, 4, size, 1
			t.HeldProducers, t.HeldBytes = 1, m.Size()
		})
		waited := s.pick(2*time.Second, 100*time.Millisecond)
		time.Sleep(waited)
		r := s.subscribe(a.Consumer)
		r.one()
		s.no(s.returned(held))
		stats := s.counts(func(t *broker.Stats) {
			t.Channels, t.Created, t.Accepted, t.Pending, t.BufferedBytes, t.RefusedFull = 1, 1, 5, 4, size+m.Size(), 1
			t.Readers, t.InFlight, t.Sent = 1, 1, 1
		})
		if sum := stats.PublishWait.Sum; sum < waited || sum > waited && !s.realTime {
			s.Errorf("messages waited %v in all, want %v", sum, waited)
		}
	},
	"messages that got no memory are counted": func(s *suite) {
		b := implementing[broker.Statser](s)
		s.useUpMemory() // which ends with one that is refused
		s.limits.Hold = 0
		s.is(s.Publish(s.Context(), s.create().Producer, s.message("m"), s.limits), broker.ErrMemoryLimit)
		if stats := b.Stats(); stats.RefusedMemory != 2 || stats.RefusedFull != 0 {
			s.Errorf("%d messages are refused for want of memory, and %d because of a full channel",
				stats.RefusedMemory, stats.RefusedFull)
		}
	},
	"messages to channels that do not exist are counted": func(s *suite) {
		b := implementing[broker.Statser](s)
		a, gone := s.create(), s.create()
		s.delete(gone.Consumer)
		before := b.Stats().Unroutable
		m := s.message("m")
		s.is(s.Publish(s.Context(), gone.Producer, m, s.limits), broker.ErrNotFound)
		s.is(s.Publish(s.Context(), "no address", m, s.limits), broker.ErrNotFound)
		s.is(s.Publish(s.Context(), a.Consumer, m, s.limits), broker.ErrNotFound)
		if s.PublishNow(gone.Producer, m, s.limits) { // the caller goes on with Publish, which counts
			s.Error("a message to a channel that does not exist is accepted")
		}
		s.PublishBatch(s.Context(), []string{gone.Producer, a.Producer, "x"}, []*broker.Message{m, s.message("n")}, s.limits)
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(gone.Producer), m))
		in.Finish(s.Context())
		if got := b.Stats().Unroutable - before; got != 3+2*2+1 {
			s.Errorf("%d messages are unroutable, want 8", got)
		}
		s.addsUp(new(b.Stats()))
	},
	"every message that a channel gets counts as received": func(s *suite) {
		b := implementing[broker.Statser](s)
		a := s.create()
		s.limits.Buffer, s.limits.Hold = 1, 0
		s.send(a.Producer, s.keyed("1", "key"))
		s.send(a.Producer, s.keyed("1", "key"))
		s.is(s.Publish(s.Context(), a.Producer, s.message("2"), s.limits), broker.ErrTimeout)
		s.limits.Hold = time.Hour
		ctx, cancel := context.WithCancel(s.Context())
		held := s.holdMessage(ctx, a.Producer, s.message("3"))
		cancel()
		s.is(s.returned(held), context.Canceled)
		held = s.holdMessage(s.Context(), a.Producer, s.message("4"))
		s.delete(a.Consumer)
		s.is(s.returned(held), broker.ErrNotFound)
		stats := b.Stats()
		if stats.Received() != 4 || stats.Withdrawn != 1 || stats.Unroutable != 1 {
			s.Errorf("%d messages are received, %d withdrawn, %d unroutable; want 4, 1 and 1",
				stats.Received(), stats.Withdrawn, stats.Unroutable)
		}
	},
	"a message in many channels takes its bytes once": func(s *suite) {
		implementing[broker.Statser](s)
		m := s.message("m")
		producers := []string{s.create().Producer, s.create().Producer}
		for _, outcome := range s.PublishBatch(s.Context(), producers, []*broker.Message{m}, s.limits) {
			s.no(outcome.Err)
		}
		bytes := m.Size()
		if s.copies {
			bytes *= 2
		}
		s.counts(func(t *broker.Stats) {
			t.Channels, t.Created, t.Accepted, t.Pending, t.BufferedBytes = 2, 2, 2, 2, bytes
		})
	},
	"expiry and deletion are counted": func(s *suite) {
		implementing[broker.Statser](s)
		expired, deleted := s.create(), s.create()
		s.publish(expired.Producer, "1")
		s.publish(deleted.Producer, "1", "2")
		s.delete(deleted.Consumer)
		if expires := s.expire(expired.Consumer); !s.realTime {
			time.Sleep(time.Until(expires) + sweep)
		}
		s.counts(func(t *broker.Stats) {
			t.Created, t.Accepted = 2, 3
			t.Deleted[broker.EndExpired], t.Undelivered[broker.EndExpired] = 1, 1
			t.Deleted[broker.EndDeleted], t.Undelivered[broker.EndDeleted] = 1, 2
		})
	},
	"counters add up after everything at once": countersAddUp,
}

func countersFollowAChannel(s *suite) {
	implementing[broker.Statser](s)
	a := s.create()
	want := broker.Stats{Channels: 1, Created: 1}
	counts := func(change func(*broker.Stats)) {
		s.Helper()
		change(&want)
		s.counts(func(t *broker.Stats) { *t = want })
	}
	counts(func(*broker.Stats) {})
	ms := []*broker.Message{s.keyed("1", "key"), s.message("2"), s.message("3")}
	s.no(s.PublishBatch(s.Context(), []string{a.Producer}, ms, s.limits)[0].Err)
	counts(func(t *broker.Stats) { t.Accepted, t.Pending, t.BufferedBytes = 3, 3, totalSize(ms) })
	s.send(a.Producer, s.keyed("1", "key"))
	counts(func(t *broker.Stats) { t.Duplicates = 1 })
	r := s.subscribe(a.Consumer)
	counts(func(t *broker.Stats) { t.Readers = 1 })
	r.takes(ms...)
	counts(func(t *broker.Stats) { t.Sent, t.Pending, t.InFlight = 3, 0, 3 })
	r = s.subscribe(a.Consumer, takeOver)
	r.takes(ms...)
	counts(func(t *broker.Stats) { t.Sent, t.Redelivered = 6, 3 })
	r.Settle(ms[1].ID())
	counts(func(t *broker.Stats) { t.Settled, t.InFlight, t.BufferedBytes = 2, 1, ms[2].Size() })
	r.End(broker.EndClean)
	counts(func(t *broker.Stats) { t.Readers = 0 })
	s.delete(a.Consumer)
	counts(func(t *broker.Stats) {
		t.Channels, t.InFlight, t.BufferedBytes = 0, 0, 0
		t.Deleted[broker.EndDeleted], t.Undelivered[broker.EndDeleted] = 1, 1
	})
}

// A crowd is producers and readers that use a few channels at once, while some of the channels are deleted.
type crowd struct {
	s        *suite
	channels []broker.Addresses
	deleted  int // so many of channels

	accepted, settled atomic.Int64
}

// countersAddUp lets a crowd use a Broker, and compares its counters with what its calls have returned.
func countersAddUp(s *suite) {
	b := implementing[broker.Statser](s)
	s.limits.Hold, s.limits.Buffer = time.Millisecond, 3
	c := &crowd{s: s, deleted: 3}
	for range 10 {
		c.channels = append(c.channels, s.create())
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(c.write)
		all.Go(c.read)
	}
	all.Go(c.delete)
	all.Go(func() {
		for range 100 { // while the counters change, no difference of two is negative
			if now := b.Stats(); now.Pending > 1<<40 || now.InFlight > 1<<40 {
				s.Errorf("%d messages are pending and %d in flight", now.Pending, now.InFlight)
			}
		}
	})
	all.Wait()
	want := broker.Stats{
		Channels: len(c.channels) - c.deleted, Accepted: uint64(c.accepted.Load()), Settled: uint64(c.settled.Load()),
	}
	for _, channel := range s.list(broker.ListOptions{Limit: 100}) {
		want.Pending += uint64(channel.Pending)
		want.InFlight += uint64(channel.InFlight)
	}
	var stats broker.Stats
	if !s.eventually(func() bool {
		stats = b.Stats()
		settled := stats.Settled == want.Settled || s.realTime && stats.Settled < want.Settled // see Options.RealTime
		return stats.Channels == want.Channels && stats.Accepted == want.Accepted && settled &&
			stats.Pending == want.Pending && stats.InFlight == want.InFlight && stats.HeldProducers == 0 && stats.HeldBytes == 0
	}) {
		s.Errorf("the statistics are\n%+v, want\n%+v", stats, want)
	}
	s.addsUp(&stats)
}

func (c *crowd) pick() broker.Addresses { return c.channels[rand.IntN(len(c.channels))] }

func (c *crowd) write() {
	for i := range 200 {
		m, err := broker.NewMessage("stream", []byte(strconv.Itoa(i)), "")
		if err == nil {
			err = c.s.Publish(c.s.Context(), c.pick().Producer, m, c.s.limits)
		}
		switch {
		case err == nil:
			c.accepted.Add(1)
		case !errors.Is(err, broker.ErrTimeout) && !errors.Is(err, broker.ErrNotFound):
			c.s.Errorf("publish fails with %v", err)
		}
	}
}

func (c *crowd) read() {
	for range 100 {
		sub, err := c.s.trySubscribe(c.pick().Consumer, acknowledged)
		if err != nil {
			continue
		}
		for range 3 {
			ms, _ := sub.Take(nil, allBytes)
			if len(ms) > 0 && sub.Settle(ms[len(ms)-1].ID()) {
				c.settled.Add(int64(len(ms)))
			}
		}
		sub.End(broker.EndFault)
	}
}

func (c *crowd) delete() {
	for _, a := range c.channels[:c.deleted] {
		time.Sleep(time.Millisecond)
		if err := c.s.Delete(c.s.Context(), a.Producer); err != nil {
			c.s.Errorf("delete fails with %v", err)
		}
	}
}

// counts checks all counters of a Broker, and that they add up.
func (s *suite) counts(set func(*broker.Stats)) broker.Stats {
	s.Helper()
	b := implementing[broker.Statser](s)
	var want, got broker.Stats
	set(&want)
	var stats broker.Stats
	if !s.eventually(func() bool {
		stats = b.Stats()
		got = stats
		got.PublishWait, got.DeliveryDelay, got.ChannelLife = broker.Histogram{}, broker.Histogram{}, broker.Histogram{}
		return reflect.DeepEqual(got, want)
	}) {
		s.Fatalf("the statistics are\n%+v, want\n%+v", got, want)
	}
	s.addsUp(&stats)
	return stats
}

// addsUp checks what holds for all statistics of a Broker at rest.
func (s *suite) addsUp(t *broker.Stats) {
	s.Helper()
	if t.Accepted != t.Replaced+t.Appended+t.Settled+t.AllUndelivered()+t.Pending+t.InFlight {
		s.Errorf("%d messages are accepted, but %d are replaced, %d appended, %d settled, %d undelivered, %d pending and %d in flight",
			t.Accepted, t.Replaced, t.Appended, t.Settled, t.AllUndelivered(), t.Pending, t.InFlight)
	}
	var deleted uint64
	for _, n := range t.Deleted {
		deleted += n
	}
	if t.Created != deleted+uint64(t.Channels) {
		s.Errorf("%d channels are created, but %d are deleted, and there are %d", t.Created, deleted, t.Channels)
	}
	s.isHistogram("the waits for room", t.PublishWait, t.Accepted)
	s.isHistogram("the delays of delivery", t.DeliveryDelay, t.Sent-t.Redelivered)
	s.isHistogram("the lives of channels", t.ChannelLife, deleted)
}

func (s *suite) isHistogram(what string, h broker.Histogram, count uint64) {
	s.Helper()
	if h.Count != count {
		s.Errorf("%s are %d, want %d", what, h.Count, count)
	}
	if len(h.Bounds) != len(h.Cumulative) || !slices.IsSorted(h.Bounds) || !slices.IsSorted(h.Cumulative) ||
		len(h.Cumulative) > 0 && h.Cumulative[len(h.Cumulative)-1] > h.Count || h.Sum < 0 {
		s.Errorf("the histogram of %s is %+v", what, h)
	}
}

func totalSize(ms []*broker.Message) (size int64) {
	for _, m := range ms {
		size += m.Size()
	}
	return size
}

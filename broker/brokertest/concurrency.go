package brokertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
)

var concurrencyTests = group{
	"one of many readers gets the channel": func(s *suite) {
		a := s.create()
		s.race(8, 1, broker.ErrBusy, func() error {
			_, err := s.trySubscribe(a.Consumer)
			return err
		})
	},
	"one of many readers that take over remains": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		const readers = 8
		subs := make(chan broker.Subscription, readers)
		s.race(readers, readers, nil, func() error {
			sub, err := s.trySubscribe(a.Consumer, takeOver)
			subs <- sub
			return err
		})
		var left []broker.Subscription
		for range readers {
			left = append(left, <-subs)
		}
		over := func(sub broker.Subscription) bool { return sub.Err() != nil }
		if !s.eventually(func() bool { left = slices.DeleteFunc(left, over); return len(left) <= 1 }) || len(left) == 0 {
			s.Fatalf("%d readers remain", len(left))
		}
		(&reader{Subscription: left[0], s: s}).takes(ms...)
	},
	"no more channels are created at once than allowed": func(s *suite) {
		s.limits.MaxChannels = 3
		s.raceToCreate(broker.ErrChannelLimit)
	},
	"no more channels of one client are created at once than allowed": func(s *suite) {
		s.limits.MaxChannelsPerClient, s.limits.Client = 3, "one"
		s.raceToCreate(broker.ErrClientLimit)
	},
	"no more readers come at once than allowed": func(s *suite) {
		s.limits.MaxReaders = 3
		consumers := make(chan string, 8)
		for range cap(consumers) {
			consumers <- s.create().Consumer
		}
		s.race(cap(consumers), 3, broker.ErrReaderLimit, func() error {
			_, err := s.trySubscribe(<-consumers)
			return err
		})
	},
	"one of many deletions deletes": func(s *suite) {
		for range rounds {
			a := s.create()
			s.race(8, 1, broker.ErrNotFound, func() error { return s.Delete(s.Context(), a.Consumer) })
		}
	},
	"one of many messages with a key is accepted": func(s *suite) {
		for range rounds {
			a := s.create()
			s.race(8, 8, nil, func() error {
				return s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits)
			})
			s.holds(a.Consumer, 1, 0)
		}
	},
	"a full channel takes no more than it has room for": func(s *suite) {
		s.limits.Hold = 0
		for range rounds {
			a := s.create()
			s.race(16, s.limits.Buffer, broker.ErrTimeout, func() error {
				return s.Publish(s.Context(), a.Producer, s.message("m"), s.limits)
			})
			s.holds(a.Consumer, s.limits.Buffer, 0)
		}
	},
	"nothing is lost, repeated or out of order while readers come and go": nothingIsLost,
}

// rounds is how often a test repeats a race. A Broker without locks may win one by chance.
const rounds = 30

// race makes calls at once, and checks how many succeed, and the error of the others.
func (s *suite) race(calls, want int, otherwise error, call func() error) {
	s.Helper()
	errs := make(chan error, calls)
	begin := make(chan struct{})
	for range calls {
		go func() {
			<-begin
			errs <- call()
		}()
	}
	close(begin)
	succeeded := 0
	for range calls {
		err, ok := receiveWithin(errs, s.patience())
		switch {
		case !ok:
			s.Fatal("a call does not return")
		case err == nil:
			succeeded++
		default:
			s.is(err, otherwise)
		}
	}
	if succeeded != want {
		s.Errorf("%d calls have succeeded, want %d", succeeded, want)
	}
}

// raceToCreate creates channels at once, where three are allowed.
func (s *suite) raceToCreate(otherwise error) {
	s.Helper()
	for range rounds {
		created := make(chan broker.Addresses, 8)
		s.race(cap(created), 3, otherwise, func() error {
			a, err := s.Create(s.Context(), "agent", s.limits)
			if err == nil {
				created <- a
			}
			return err
		})
		for range len(created) {
			s.delete((<-created).Consumer)
		}
	}
}

// nothingIsLost lets producers write in every way, while readers come and go. Each reader shows the cursor of the one
// before. Each producer's messages must reach the readers in order, and once.
func nothingIsLost(s *suite) {
	const producers, each = 4, 60
	a := s.create()
	var writing sync.WaitGroup
	for p := range producers {
		var ms []*broker.Message
		for i := range each {
			ms = append(ms, s.message(fmt.Sprintf("%d %d", p, i)))
		}
		writing.Go(func() {
			if err := s.writeAll(a.Producer, ms); err != nil {
				s.Errorf("producer %d fails with %v", p, err)
			}
		})
	}
	seen := s.readAll(a.Consumer, producers*each)
	writing.Wait()
	next := make([]int, producers)
	for _, m := range seen {
		var p, i int
		if _, err := fmt.Sscan(m.StreamID(), &p, &i); err != nil || i != next[p] {
			s.Fatalf("a reader took %q, want message %d of the producer", m.Line(), next[p])
		}
		next[p]++
	}
	if len(seen) != producers*each {
		s.Fatalf("readers took %d messages, want %d", len(seen), producers*each)
	}
}

// writeAll writes messages one after the other, with one call after the other.
func (s *suite) writeAll(producer string, ms []*broker.Message) error {
	for len(ms) > 0 {
		n := 1
		var err error
		switch rand.IntN(4) {
		case 0:
			err = s.Publish(s.Context(), producer, ms[0], s.limits)
		case 1:
			if !s.PublishNow(producer, ms[0], s.limits) {
				n = 0
			}
		case 2:
			n = min(3, len(ms))
			err = s.PublishBatch(s.Context(), []string{producer}, ms[:n], s.limits)[0].Err
		default:
			in := s.Ingest(s.limits)
			for n = 0; n < min(5, len(ms)) && err == nil; n++ {
				err = in.Write(s.Context(), n, []byte(producer), ms[n])
			}
			if result := in.Finish(s.Context()); err == nil && result.Written != n {
				err = errors.New("an ingestion has failures")
			}
		}
		if err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

// readAll reads until it has so many messages. Readers come, take some, and go, each with the cursor of what was taken.
func (s *suite) readAll(consumer string, want int) (seen []*broker.Message) {
	cursor := ""
	for len(seen) < want {
		acknowledges := rand.IntN(2) == 0
		r := s.subscribe(consumer, after(cursor), func(o *broker.SubscribeOptions) { o.Acknowledged = acknowledges })
		if cursor != "" {
			r.resumes(broker.ResumeComplete)
		}
		for range 1 + rand.IntN(8) {
			if len(seen) == want {
				break
			}
			if _, ok := receiveWithin(r.Ready(), s.patience()); !ok {
				s.Errorf("only %d of %d messages come", len(seen), want)
				return seen
			}
			seen = r.take(seen, 1+rand.IntN(1000))
			if len(seen) == 0 {
				continue
			}
			cursor = seen[len(seen)-1].ID().String()
			if r.received(); acknowledges || rand.IntN(4) == 0 {
				r.Settle(seen[len(seen)-1].ID())
				acknowledges = true
			}
		}
		if rand.IntN(2) == 0 {
			r.End([]broker.End{broker.EndClean, broker.EndFault}[rand.IntN(2)])
		}
	}
	return seen
}

package disk

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// An outcome is what a publish reports.
type outcome struct {
	broker.Published

	err error
}

// holding publishes a message that waits for room in the member of a topic, which has one message, and closes the topic.
func (s *topical) holding(topic string) (a broker.Addresses, published <-chan outcome) {
	s.Helper()
	a = s.member(broker.Join{Topic: topic})
	s.publish(topic, "first", 1, broker.Published{Members: 1, Accepted: 1})
	l := s.limits
	l.Buffer = 1
	done := make(chan outcome, 1)
	go func() {
		got, err := s.broker.PublishTopic(s.Context(), topic, s.message("waits"), broker.FullHold, l)
		done <- outcome{got, err}
	}()
	synctest.Wait()
	s.no(s.close(topic))
	s.holds(a, 1)
	return a, done
}

// holds checks how many messages a channel has. It takes none, which would make room.
func (s *topical) holds(a broker.Addresses, n int) {
	s.Helper()
	if ms, err := s.broker.Peek(s.Context(), a.Consumer, 10); err != nil || len(ms) != n {
		s.Errorf("the channel has %d messages, want %d; error %v", len(ms), n, err)
	}
}

// rewrites are what may become of a journal before it is read.
var rewrites = map[string]func(*topical){
	"at once": func(*topical) {},
	"when all was written again": func(s *topical) {
		s.broker.log.locked(func() { s.broker.log.breakDown(syscall.EIO) })
		s.recovers()
	},
	"when it was compacted": func(s *topical) {
		for s.folder.content()[segmentName(1)] != nil {
			other := s.member()
			for range 50 {
				s.no(s.broker.Publish(s.Context(), other.Producer, s.message("fill"), s.limits))
			}
			s.no(s.broker.Delete(s.Context(), other.Producer))
			time.Sleep(time.Millisecond)
		}
	},
}

// overRewrites runs a test for each durability and each of the rewrites.
func overRewrites(t *testing.T, test func(t *testing.T, s *topical, then func(*topical))) {
	t.Helper()
	for name, d := range map[string]Durability{"process": Process, "disk": Disk} {
		for what, then := range rewrites {
			t.Run(name+" "+what, func(t *testing.T) {
				inBubble(t, func(t *testing.T) { test(t, newTopical(t, d), then) })
			})
		}
	}
}

// TestAnEndThatWaitsForItsTurnSurvives: a topic was closed while a message of it waited for room in a member. The message was not
// acknowledged, but the end was.
func TestAnEndThatWaitsForItsTurnSurvives(t *testing.T) {
	overRewrites(t, func(t *testing.T, s *topical, then func(*topical)) {
		a, published := s.holding("news")
		then(s)
		is := s.again()
		s.wants(is, a, "first", "nulldone")
		twice := openTest(t, folderOf(is.options.folder.(*testFolder).content()), Process)
		defer twice.Close()
		s.wants(twice, a, "first", "nulldone") // once
		time.Sleep(s.limits.Hold)
		if got := <-published; got.Full != 1 || got.err != nil {
			t.Errorf("%+v is reported", got)
		}
		for _, is := range []*Broker{s.broker, s.again()} {
			s.wants(is, a, "first", "1 missed, nulldone")
		}
	})
}

// TestAnEndThatWaitsIsForgotten with the membership, and with the channel.
func TestAnEndThatWaitsIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Process)
		left, _ := s.holding("left")
		deleted, _ := s.holding("deleted")
		s.no(s.broker.Leave(t.Context(), left.Producer, "left"))
		s.no(s.broker.Delete(t.Context(), deleted.Producer))
		is := s.again()
		s.wants(is, left, "first")
		if _, err := is.State(t.Context(), deleted.Consumer); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("the channel is there: error %v", err)
		}
	})
}

// TestADrainBringsAnEndThatWaits: what it waited for was not acknowledged, and is missed. So it is after a restart and after the drain.
func TestADrainBringsAnEndThatWaits(t *testing.T) {
	overRewrites(t, func(t *testing.T, s *topical, then func(*topical)) {
		a, published := s.holding("news")
		s.broker.Drain(0)
		if got := <-published; got.Full != 1 || got.err != nil {
			t.Errorf("%+v is reported", got)
		}
		s.wants(s.again(), a, "first", "1 missed, nulldone")
		s.broker.Undrain()
		then(s)
		is := s.again()
		s.wants(is, a, "first", "1 missed, nulldone")
		twice := openTest(t, folderOf(is.options.folder.(*testFolder).content()), Process)
		defer twice.Close()
		s.no(s.broker.Publish(t.Context(), a.Producer, s.message("later"), s.limits))
		for _, is := range []*Broker{s.broker, s.again()} {
			s.wants(is, a, "first", "1 missed, nulldone", "later")
		}
		s.wants(twice, a, "first", "1 missed, nulldone") // once
	})
}

// TestAnEndThatWaitsForTheJournalSurvivesADrain, and the drain is not done before it has come.
func TestAnEndThatWaitsForTheJournalSurvivesADrain(t *testing.T) {
	for name, fails := range refusals {
		for what, then := range map[string]func(*topical){
			"goes on": func(*topical) {}, "is undone": func(s *topical) { s.broker.Undrain() },
		} {
			t.Run(name+", and the drain "+what, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newTopical(t, Process)
					a := s.stuck(fails)
					s.broker.Drain(0)
					sub, err := s.broker.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: s.limits, Acknowledged: true})
					s.no(err)
					ms, _ := sub.Take(nil, 1<<20)
					sub.Settle(ms[len(ms)-1].ID())
					time.Sleep(time.Second)
					if sub.Drained() || s.broker.DrainState().Done {
						t.Error("the channel is drained before the end has come")
					}
					then(s)
					s.recovers()
					for _, is := range []*Broker{s.broker, s.again()} {
						if is == s.broker {
							sub.End(broker.EndFault)
						}
						s.wants(is, a, "1 missed, nulldone")
					}
				})
			})
		}
	}
}

// TestWhatWaitsWhenTheBrokerClosesIsMissed: the publish has returned, and the members are there again after the restart.
func TestWhatWaitsWhenTheBrokerClosesIsMissed(t *testing.T) {
	for name, d := range map[string]Durability{"process": Process, "disk": Disk} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newTopical(t, d)
				a, published := s.holding("news")
				s.broker.Close()
				if got := <-published; got.Members != 1 || got.err != nil {
					t.Errorf("%+v is reported", got)
				}
				s.wants(s.again(), a, "first", "1 missed, nulldone")
			})
		})
	}
}

// refusals are ways in which the journal comes to refuse all writes.
var refusals = map[string]func(*topical){
	"fault": func(s *topical) {
		s.fails(syscall.EIO, "sync", "create")
		time.Sleep(untilSynced)
	},
	"full": func(s *topical) {
		s.fails(syscall.ENOSPC, "create")
		s.fillUp()
		s.useReserve()
	},
}

// TestAnEndComesAlsoIfTheJournalFailsAtItsTurn: it was acknowledged, and comes when the journal takes writes again.
func TestAnEndComesAlsoIfTheJournalFailsAtItsTurn(t *testing.T) {
	for name, fails := range refusals {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newTopical(t, Process)
				a, published := s.holding("news")
				fails(s)
				time.Sleep(s.limits.Hold)
				s.holds(a, 1)
				time.Sleep(journal.MaxCommit)
				if got := <-published; !errors.Is(got.err, broker.ErrOutcomeUnknown) { // the member does not say that it has missed it
					t.Errorf("%+v is reported", got)
				}
				s.recovers()
				for _, is := range []*Broker{s.broker, s.again()} {
					s.wants(is, a, "first", "1 missed, nulldone")
				}
			})
		})
	}
}

// A write is a write to a member.
type write func(*topical, broker.Addresses) error

// writesOf are all ways to write to a member of the topic "other".
var writesOf = map[string]write{
	"publish": func(s *topical, a broker.Addresses) error {
		return s.broker.Publish(s.Context(), a.Producer, s.message("later"), s.limits)
	},
	"publish without hold": func(s *topical, a broker.Addresses) error {
		l := s.limits
		l.Hold = 0
		return s.broker.Publish(s.Context(), a.Producer, s.message("later"), l)
	},
	"publish now": func(s *topical, a broker.Addresses) error {
		m := s.message("later")
		if s.broker.PublishNow(a.Producer, m, s.limits) {
			return nil
		}
		return s.broker.Publish(s.Context(), a.Producer, m, s.limits)
	},
	"batch": func(s *topical, a broker.Addresses) error {
		return s.broker.PublishBatch(s.Context(), []string{a.Producer}, []*broker.Message{s.message("later")}, s.limits)[0].Err
	},
	"ingestion": func(s *topical, a broker.Addresses) error {
		in := s.broker.Ingest(s.limits)
		if err := in.Write(s.Context(), 1, []byte(a.Producer), s.message("later")); err != nil {
			return err
		}
		for _, failure := range in.Finish(s.Context()).Failures {
			return failure.Err
		}
		return nil
	},
	"topic": func(s *topical, _ broker.Addresses) error {
		got, err := s.broker.PublishTopic(s.Context(), "other", s.message("later"), broker.FullMiss, s.limits)
		if err == nil && got.Accepted != 1 {
			s.Errorf("%+v is reported", got)
		}
		return err
	},
}

// stuck makes the end of a topic wait only for the journal.
func (s *topical) stuck(fails func(*topical)) (a broker.Addresses) {
	s.Helper()
	a, _ = s.holding("news")
	s.no(s.broker.Join(s.Context(), a.Producer, broker.Join{Topic: "other"}, s.limits))
	fails(s)
	time.Sleep(s.limits.Hold + time.Millisecond)
	s.holds(a, 1)
	return a
}

// TestAWriteBehindAnEndThatWaitsForTheJournal fails at once, like one to any other channel. As soon as the journal takes writes again,
// it succeeds, and the end goes first, even if the journal has not come to that yet.
func TestAWriteBehindAnEndThatWaitsForTheJournal(t *testing.T) {
	for name, fails := range refusals {
		for how, write := range writesOf {
			t.Run(name+" "+how, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newTopical(t, Process)
					a := s.stuck(fails)
					begun := time.Now()
					if err := write(s, a); !errors.Is(err, broker.ErrStorage) {
						t.Errorf("error %v", err)
					}
					if took := time.Since(begun); took > 0 {
						t.Errorf("it takes %v", took)
					}
					s.holds(a, 1)
					s.broker.log.locked(func() { s.broker.log.retries = nil })
					s.recovers()
					s.no(write(s, a))
					for _, is := range []*Broker{s.broker, s.again()} {
						s.wants(is, a, "first", "1 missed, nulldone", "later")
					}
				})
			})
		}
	}
}

// TestWritesThatWaitBehindAnEndFailWithIt if there is room for them. Others go on to wait for room.
func TestWritesThatWaitBehindAnEndFailWithIt(t *testing.T) {
	for name, fails := range refusals {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newTopical(t, Process)
				a, _ := s.holding("news")
				begun := time.Now()
				write := func(body string, buffer int) <-chan error {
					l, done := s.limits, make(chan error, 1)
					l.Buffer, l.Hold = buffer, time.Minute
					go func() { done <- s.broker.Publish(t.Context(), a.Producer, s.message(body), l) }()
					synctest.Wait()
					return done
				}
				room, none := write("room", 10), write("no room", 1)
				fails(s)
				if err := <-room; !errors.Is(err, broker.ErrStorage) || time.Since(begun) != s.limits.Hold {
					t.Errorf("after %v, error %v", time.Since(begun), err)
				}
				s.recovers()
				s.wants(s.broker, a, "first", "1 missed, nulldone")
				s.no(<-none)
				for _, is := range []*Broker{s.broker, s.again()} {
					s.wants(is, a, "first", "1 missed, nulldone", "no room")
				}
			})
		})
	}
}

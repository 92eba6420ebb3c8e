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

// TestAnEndThatWaitsForItsTurnSurvives: a topic was closed while a message of it waited for room in a member. The message was not
// acknowledged, but the end was.
func TestAnEndThatWaitsForItsTurnSurvives(t *testing.T) {
	for name, d := range map[string]Durability{"process": Process, "disk": Disk} {
		for what, then := range map[string]func(*topical){
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
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newTopical(t, d)
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
			})
		}
	}
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

// TestAnEndComesAlsoIfTheJournalFailsAtItsTurn: it was acknowledged, and comes when the journal takes writes again.
func TestAnEndComesAlsoIfTheJournalFailsAtItsTurn(t *testing.T) {
	for name, fails := range map[string]func(*topical){
		"fault": func(s *topical) {
			s.fails(syscall.EIO, "sync", "create")
			time.Sleep(untilSynced)
		},
		"full": func(s *topical) {
			s.fails(syscall.ENOSPC, "create")
			s.fillUp()
			s.useReserve()
		},
	} {
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

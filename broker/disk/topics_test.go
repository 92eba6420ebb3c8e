package disk

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// A topical is a Broker whose folder can fail, with topics.
type topical struct {
	*testing.T

	folder *testFolder
	broker *Broker
	limits broker.Limits
}

func newTopical(t *testing.T, d Durability) *topical {
	t.Helper()
	s := &topical{T: t, folder: &testFolder{}, limits: brokerfixture.Limits}
	s.limits.Buffer = 1 << 20
	s.broker = openTest(t, s.folder, d)
	t.Cleanup(s.broker.Close)
	return s
}

func (s *topical) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("unexpected error: %v", err)
	}
}

func (s *topical) member(topics ...broker.Join) broker.Addresses {
	s.Helper()
	a, err := s.broker.CreateMember(s.Context(), "agent", topics, s.limits)
	s.no(err)
	return a
}

func (s *topical) message(body string) *broker.Message {
	s.Helper()
	m, err := broker.NewMessage("stream", fmt.Appendf(nil, "%q", body), "")
	s.no(err)
	return m
}

// publish publishes a message, of which this must become. With a buffer of zero, no member has room.
func (s *topical) publish(topic, body string, buffer int, want broker.Published) {
	s.Helper()
	l := s.limits
	l.Buffer = buffer
	got, err := s.broker.PublishTopic(s.Context(), topic, s.message(body), broker.FullMiss, l)
	if s.no(err); got != want {
		s.Fatalf("%+v is reported, want %+v", got, want)
	}
}

func (s *topical) close(topic string) error {
	end, err := broker.NewEnd("stream", broker.EndDone)
	s.no(err)
	return s.broker.CloseTopic(s.Context(), topic, end, s.limits)
}

// lines returns what a reader of a channel gets, without what differs each time, and lets it come again.
func lines(t *testing.T, b *Broker, a broker.Addresses) (all []string) {
	t.Helper()
	o := broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true, Redeliver: true}
	o.InFlight = 1 << 20
	sub, err := b.Subscribe(t.Context(), a.Consumer, o)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.End(broker.EndFault)
	ms, _ := sub.Take(nil, 1<<30)
	for _, m := range ms {
		missed := ""
		if _, rest, ok := strings.Cut(string(m.Line()), `"missed":`); ok {
			missed = rest[:1] + " missed, "
		}
		all = append(all, missed+strings.Trim(string(m.Body()), `"`)+m.End())
	}
	return all
}

func (s *topical) wants(b *Broker, a broker.Addresses, want ...string) {
	s.Helper()
	if got := lines(s.T, b, a); !reflect.DeepEqual(got, want) {
		s.Errorf("the channel has %q, want %q", got, want)
	}
}

// again opens the Broker anew, as if its process had been killed.
func (s *topical) again() *Broker {
	s.Helper()
	b := openTest(s, folderOf(s.folder.content()), Process)
	s.Cleanup(b.Close)
	return b
}

// fails makes the folder fail. Then the Broker takes no writes.
func (s *topical) fails(err error, operations ...string) {
	s.folder.failWith(func(operation, _ string) error {
		if slices.Contains(operations, operation) {
			return err
		}
		return nil
	})
}

func (s *topical) recovers() {
	s.Helper()
	s.folder.failWith(nil)
	time.Sleep(maxPause + 2*retryInterval)
	if err := s.broker.Healthy(); err != nil {
		s.Fatalf("the Broker does not recover: %v", err)
	}
}

// calls makes all calls that a journal may refuse, of a member of two topics.
func (s *topical) calls(a broker.Addresses, publish, leave string) map[string]error {
	_, publishes := s.broker.PublishTopic(s.Context(), publish, s.message("refused"), broker.FullMiss, s.limits)
	full := s.limits
	full.Buffer = 0
	_, misses := s.broker.PublishTopic(s.Context(), publish, s.message("refused"), broker.FullMiss, full)
	_, creates := s.broker.CreateMember(s.Context(), "agent", nil, s.limits)
	return map[string]error{
		"publish": publishes, "a publish for which there is no room": misses, "create": creates,
		"write": s.broker.Publish(s.Context(), a.Producer, s.message("refused"), s.limits),
		"leave": s.broker.Leave(s.Context(), a.Producer, leave), "delete": s.broker.Delete(s.Context(), a.Consumer),
		"join":  s.broker.Join(s.Context(), a.Producer, broker.Join{Topic: "another"}, s.limits),
		"close": s.close(publish), "keep": s.broker.KeepTopic(s.Context(), publish, broker.Keep{Bytes: 1}, s.limits),
	}
}

// fillUp fills the journal until the disk is full for what adds something.
func (s *topical) fillUp() {
	s.Helper()
	a := s.member()
	var err error
	for n := 0; err == nil && n < 10_000; n++ {
		err = s.broker.Publish(s.Context(), a.Producer, s.message("fill"), s.limits)
	}
	if !errors.Is(err, broker.ErrStorage) {
		s.Fatalf("a write fails with %v", err)
	}
}

// useReserve fills the journal until the disk is full for all else.
func (s *topical) useReserve() {
	s.Helper()
	l := s.broker.log
	l.locked(func() {
		for free := l.free(); free > 0; free = l.free() {
			skipped := make([]byte, min(1000, free-recordHeader))
			skipped[0] = skipFlag | lastKind + 1
			_, err := l.write(skipped, nil, urgent)
			s.no(err)
		}
	})
}

// free returns how many bytes are free in the head.
func (l *log) free() int { return len(l.head.mem) - l.head.end }

// TestTopicsSurviveAFault: all that lives is written again.
func TestTopicsSurviveAFault(t *testing.T) {
	for name, d := range map[string]Durability{"process": Process, "disk": Disk} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newTopical(t, d)
				s.no(s.broker.KeepTopic(t.Context(), "kept", broker.Keep{Bytes: 1 << 20, TTL: time.Hour}, s.limits))
				a, b := s.member(broker.Join{Topic: "kept"}, broker.Join{Topic: "left"}), s.member(broker.Join{Topic: "left"})
				s.publish("kept", "one", 10, broker.Published{Members: 1, Accepted: 1})
				s.publish("left", "two", 0, broker.Published{Members: 2, Full: 2})
				s.no(s.broker.Leave(t.Context(), b.Producer, "left"))
				late := s.member(broker.Join{Topic: "kept", Last: broker.LastAll})
				time.Sleep(untilSynced)
				s.fails(syscall.EIO, "sync", "create")
				if d == Process {
					s.publish("kept", "three", 10, broker.Published{Members: 2, Accepted: 2})
					time.Sleep(untilSynced)
				}
				_, err := s.broker.PublishTopic(t.Context(), "kept", s.message("refused"), broker.FullMiss, s.limits)
				if want := map[Durability]error{Process: broker.ErrStorage, Disk: broker.ErrOutcomeUnknown}[d]; !errors.Is(err, want) {
					t.Fatalf("the publish fails with %v, want %v", err, want)
				}
				if err := s.close("kept"); !errors.Is(err, broker.ErrStorage) {
					t.Fatalf("the end fails with %v", err)
				}
				if err := s.broker.Join(t.Context(), b.Producer, broker.Join{Topic: "kept"}, s.limits); !errors.Is(err, broker.ErrStorage) {
					t.Fatalf("the join fails with %v", err)
				}
				s.recovers()
				had := map[broker.Addresses][]string{a: lines(t, s.broker, a), late: lines(t, s.broker, late)}
				s.no(s.close("kept"))
				s.no(s.close("kept"))
				for _, is := range []*Broker{s.broker, s.again()} {
					for member, missed := range map[broker.Addresses]string{a: "1 missed, ", late: ""} {
						want := []string{"one", "nulldone"}
						switch {
						case d == Process:
							want = []string{"one", "three", "nulldone"}
						case len(had[member]) > 1: // or else the journal failed before the publish came to the member
							want = []string{"one", "refused", "nulldone"}
						}
						want[1] = missed + want[1]
						s.wants(is, member, want...)
					}
					s.wants(is, b)
					if i, err := is.Topic(t.Context(), "kept"); err != nil || i.Members != 2 || i.Kept != 2 || i.Closed != broker.EndDone {
						t.Errorf("the topic is %+v, error %v", i, err)
					}
					if i, err := is.Topic(t.Context(), "left"); err != nil || i.Members != 1 {
						t.Errorf("the topic is %+v, error %v", i, err)
					}
				}
			})
		})
	}
}

// TestOnAFullDiskTopicsLetGo as long as the room lasts that is kept for that, and then a call that cannot be written is refused.
func TestOnAFullDiskTopicsLetGo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Process)
		a, b := s.member(broker.Join{Topic: "1"}, broker.Join{Topic: "2"}), s.member(broker.Join{Topic: "1"})
		s.publish("1", "missed", 0, broker.Published{Members: 2, Full: 2})
		time.Sleep(retryInterval)
		s.fails(syscall.ENOSPC, "create")
		s.fillUp()
		s.no(s.broker.Leave(t.Context(), b.Producer, "1"))
		s.wants(s.again(), b)
		s.useReserve()
		for call, err := range s.calls(a, "1", "2") {
			if !errors.Is(err, broker.ErrStorage) {
				t.Errorf("%s fails with %v", call, err)
			}
		}
		for _, is := range []*Broker{s.broker, s.again()} {
			if i, err := is.Topic(t.Context(), "2"); err != nil || i.Members != 1 {
				t.Errorf("the topic is %+v, error %v", i, err)
			}
		}
		s.recovers()
		s.no(s.broker.Leave(t.Context(), a.Producer, "2"))
		is := s.again()
		for topic, members := range map[string]int{"1": 1, "2": 0} {
			if i, err := is.Topic(t.Context(), topic); err != nil || i.Members != members {
				t.Errorf("the topic is %+v, error %v", i, err)
			}
		}
		if _, err := is.PublishTopic(t.Context(), "1", s.message("later"), broker.FullMiss, s.limits); err != nil {
			t.Fatal(err)
		}
		s.wants(is, a, "1 missed, later")
		s.wants(is, b)
	})
}

// TestAPublishIsWrittenOnce, however many members there are, and so is what a join brings.
func TestAPublishIsWrittenOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Process)
		s.broker.Close()
		s.folder = &testFolder{}
		s.broker = Open(Options{segment: 1 << 20, folder: s.folder})
		defer s.broker.Close()
		s.no(s.broker.Start(t.Context()))
		s.no(s.broker.KeepTopic(t.Context(), "kept", broker.Keep{Bytes: 1 << 20, TTL: time.Hour}, s.limits))
		const members = 100
		for range members {
			s.member(broker.Join{Topic: "kept"})
		}
		written := func(f func()) int {
			end := func() (end int) {
				s.broker.log.locked(func() { end = s.broker.log.head.end })
				return end
			}
			before := end()
			f()
			return end() - before
		}
		body := strings.Repeat("x", 1000)
		if n := written(func() { s.publish("kept", body, 10, broker.Published{Members: members, Accepted: members}) }); n > 1200+32*members {
			t.Errorf("a publish to %d members takes %d bytes", members, n)
		}
		if n := written(func() { s.member(broker.Join{Topic: "kept", Last: broker.LastAll}) }); n > 300 {
			t.Errorf("a channel that joins takes %d bytes", n)
		}
	})
}

// TestAPublishSurvivesALossOfPower once it has succeeded. While the disk works, no member has it, and it is no secret how long
// that takes.
func TestAPublishSurvivesALossOfPower(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Disk)
		a := s.member(broker.Join{Topic: "news"})
		synctest.Wait() // nothing is synced now
		s.folder.syncTime = time.Second
		begun := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.publish("news", "one", 10, broker.Published{Members: 1, Accepted: 1})
		}()
		time.Sleep(time.Second / 2)
		s.wants(s.broker, a)
		<-done
		if took := time.Since(begun); took < time.Second || took > 2*time.Second {
			t.Errorf("the publish takes %v", took)
		}
		s.folder.mu.Lock()
		image := s.folder.durableImage(nil)
		s.folder.mu.Unlock()
		b := openTest(t, folderOf(image), Process)
		defer b.Close()
		s.wants(b, a, "one")
	})
}

// TestATopicLivesAsLongAsWithoutARestart: its time goes on while the server is down.
func TestATopicLivesAsLongAsWithoutARestart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Process)
		s.no(s.broker.KeepTopic(t.Context(), "kept", broker.Keep{Bytes: 1 << 20, TTL: time.Hour}, s.limits))
		s.publish("kept", "one", 10, broker.Published{})
		time.Sleep(time.Hour - time.Second)
		if i, err := s.again().Topic(t.Context(), "kept"); err != nil || i.Kept != 1 {
			t.Errorf("before the end, the topic is %+v, error %v", i, err)
		}
		time.Sleep(time.Second)
		if i, err := s.again().Topic(t.Context(), "kept"); err != nil || i != (broker.TopicInfo{Name: "kept"}) {
			t.Errorf("after the end, the topic is %+v, error %v", i, err)
		}
	})
}

// TestARecordOfALaterVersionIsRefused, and so is a journal with topics by a version that does not know them.
func TestARecordOfALaterVersionIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Process)
		s.broker.log.locked(func() { _, _ = s.broker.log.write(appendID(nil, lastKind+1, journal.ID{}), nil, urgent) })
		b := Open(Options{segment: smallSegment, folder: folderOf(s.folder.content())})
		defer b.Close()
		if err := b.Start(t.Context()); !errors.Is(err, errUnknown) || !strings.Contains(err.Error(), "offset") {
			t.Errorf("error %v", err)
		}
	})
}

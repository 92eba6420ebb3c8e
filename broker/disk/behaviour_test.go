package disk

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestUntilTheStartNoChannelIsMissing: clients would give a channel up that does not exist.
func TestUntilTheStartNoChannelIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Open(Options{segment: smallSegment, folder: &testFolder{}})
		defer b.Close()
		ctx, l, m := t.Context(), brokerfixture.Limits, brokerfixture.Message(t)
		const address = "agent.AAAAAAAAAAAAAAAAAAAAAA"
		in := b.Ingest(l)
		if err := in.Write(ctx, 1, []byte(address), m); err != nil {
			t.Error(err)
		}
		_, create := b.Create(ctx, "agent", l)
		_, subscribe := b.Subscribe(ctx, address, broker.SubscribeOptions{Limits: l})
		_, state := b.State(ctx, address)
		_, list := b.List(ctx, broker.ListOptions{Limit: 1})
		_, find := b.Find(ctx, address)
		_, peek := b.Peek(ctx, address, 1)
		_, member := b.CreateMember(ctx, "agent", nil, l)
		_, publish := b.PublishTopic(ctx, "topic", m, broker.FullMiss, l)
		_, topic := b.Topic(ctx, "topic")
		_, topics := b.ListTopics(ctx, broker.TopicListOptions{Limit: 1})
		for name, err := range map[string]error{
			"create": create, "publish": b.Publish(ctx, address, m, l), "subscribe": subscribe, "state": state, "list": list,
			"member": member, "publish to a topic": publish, "topic": topic, "topics": topics,
			"join": b.Join(ctx, address, broker.Join{Topic: "topic"}, l), "leave": b.Leave(ctx, address, "topic"),
			"keep": b.KeepTopic(ctx, "topic", broker.Keep{}, l), "close": b.CloseTopic(ctx, "topic", m, l),
			"find": find, "peek": peek, "delete": b.Delete(ctx, address), "health": b.Healthy(),
			"batch":  b.PublishBatch(ctx, []string{address}, []*broker.Message{m}, l)[0].Err,
			"ingest": in.Finish(ctx).Failures[0].Err,
		} {
			if !errors.Is(err, broker.ErrStarting) {
				t.Errorf("%s: error %v", name, err)
			}
		}
		if b.PublishNow(address, m, l) {
			t.Error("PublishNow has written")
		}
		for range 2 { // the second one has no effect
			if err := b.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Create(ctx, "agent", l); err != nil {
			t.Error(err)
		}
	})
}

// TestChannelsLiveForAWholeTTLAfterARestart also if they were about to expire.
func TestChannelsLiveForAWholeTTLAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFolder{}
		b := openTest(t, f, Process)
		l := brokerfixture.Limits
		a, err := b.Create(t.Context(), "agent", l)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(l.TTL - time.Second)
		b.Close()
		b = openTest(t, f, Process)
		defer b.Close()
		time.Sleep(l.TTL - time.Second)
		if _, err := b.State(t.Context(), a.Consumer); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := b.State(t.Context(), a.Consumer); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
}

// TestAChannelKeepsItsOwnTTLAcrossARestart, whatever the reads after it say.
func TestAChannelKeepsItsOwnTTLAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFolder{}
		b := openTest(t, f, Process)
		l := brokerfixture.Limits
		l.ChannelTTL = 10 * l.TTL
		a, err := b.Create(t.Context(), "agent", l)
		if err != nil {
			t.Fatal(err)
		}
		own := l.ChannelTTL
		l.ChannelTTL = 0
		defer func() { b.Close() }()
		for range 3 {
			time.Sleep(own - time.Second)
			b.Close()
			b = openTest(t, f, Process)
			sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
			if err != nil {
				t.Fatal(err)
			}
			sub.End(broker.EndClean)
		}
		time.Sleep(own)
		if _, err := b.State(t.Context(), a.Consumer); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
}

// TestTheJournalStaysSmall plays an hour of load in fast motion: channels come and go, and some messages stay. How many channels
// hold the same messages changes in it.
func TestTheJournalStaysSmall(t *testing.T) {
	for _, seed := range []uint64{5, 22} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { staysSmall(t, seed) })
	}
}

func staysSmall(t *testing.T, seed uint64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &testFolder{}
		b := openTest(t, f, Process)
		defer b.Close()
		next := 0
		l := newLoad(b, seed, &next, func(act, bool, string, int) {})
		l.limits.Buffer, l.limits.TTL = 1000, 24*time.Hour
		worst := 0.0
		for minute := range 60 {
			for range 100 {
				l.step(t.Context())
				synctest.Wait() // so compaction comes at the same time in every run
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			var size int64
			for _, data := range f.content() {
				size += int64(len(data))
			}
			// Small segments separate a message of one channel from that of another. So each counts here.
			var live int64
			for id := range b.log.engine.IDs() {
				b.log.engine.Look(id, func(c journal.Locked) {
					live += holderOverhead + int64(len(c.Member().Topics))*membershipOverhead
					for _, m := range c.Messages() {
						live += m.Size()
					}
				})
			}
			// Besides three times what lives, there are the head, the next segment, and a sealed one.
			if bound := 3*live + 3*smallSegment; size > bound {
				t.Errorf("after %d minutes, the journal takes %d bytes, and %d live", minute, size, live)
			}
			worst = max(worst, float64(size)/float64(live))
		}
		t.Logf("at worst %.1f times as much on disk as lives; %d segments", worst, b.log.head.sequence)
		if b.log.head.sequence < 10 {
			t.Errorf("only %d segments were written", b.log.head.sequence)
		}
		time.Sleep(time.Minute / 2) // what was published to in the first minute has ceased to exist
		image := f.content()
		again := openTest(t, folderOf(image), Process)
		defer again.Close()
		was, is := b.Stats(), again.Stats()
		if was.Pending != is.Pending || was.InFlight != is.InFlight || was.BufferedBytes != is.BufferedBytes {
			t.Errorf("after a restart there are %d and %d messages with %d bytes, want %d and %d with %d",
				is.Pending, is.InFlight, is.BufferedBytes, was.Pending, was.InFlight, was.BufferedBytes)
		}
		if was.Topics != is.Topics || was.Memberships != is.Memberships || was.KeptBytes != is.KeptBytes || is.Memberships == 0 {
			t.Errorf("after a restart there are %d topics with %d members, which keep %d bytes, want %d with %d, %d bytes",
				is.Topics, is.Memberships, is.KeptBytes, was.Topics, was.Memberships, was.KeptBytes)
		}
	})
}

// TestAMessageLargerThanASegmentIsKept, and so is one that is refused in the middle.
func TestAMessageLargerThanASegmentIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		big := func() *broker.Message {
			body := make([]byte, 3*smallSegment)
			for i := range body {
				body[i] = '1' + byte(i%9)
			}
			m, err := broker.NewMessage("stream", body, "")
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		creates := 0
		f.folder.failWith(func(operation, _ string) error {
			if operation == "create" {
				if creates++; creates > 1 {
					return errors.New("full")
				}
			}
			return nil
		})
		if err := f.broker.Publish(t.Context(), f.a.Producer, big(), brokerfixture.Limits); !errors.Is(err, broker.ErrStorage) {
			t.Fatalf("error %v", err)
		}
		f.folder.failWith(nil)
		time.Sleep(2 * retryInterval)
		m := big() // has the place of the first one
		if err := f.broker.Publish(t.Context(), f.a.Producer, m, brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		f.lines = append(f.lines, string(m.Line()))
		f.write(nil)
		f.has(f.broker)
		again := openTest(t, folderOf(f.folder.content()), Process)
		defer again.Close()
		f.has(again)
	})
}

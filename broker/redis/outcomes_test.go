package redis_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestWithoutItsReplicaNothingIsAccepted: Redis has done the writes, but not as safely as the setting asks for. So what became of
// them is unknown, however they were written, and none counts as accepted.
func TestWithoutItsReplicaNothingIsAccepted(t *testing.T) {
	t.Parallel()
	needsRedis(t)
	number := freePort(t)
	s, err := startServer(t.TempDir(), "--port", number, "--repl-diskless-sync-delay", "0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	replica, err := startServer(t.TempDir(), "--replicaof", "127.0.0.1 "+number)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.stop)
	o := s.options("test:")
	o.Timeout, o.Durability = time.Second, redis.Durability{Replicas: 1}
	b := open(t, o)
	l := faultLimits
	l.Buffer, l.Hold = 2, 20*time.Second
	create := func() (a broker.Addresses) {
		a, err := b.Create(t.Context(), "agent", l)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	sent := 0
	message := func() *broker.Message {
		sent++
		m, err := broker.NewMessage(fmt.Sprint(sent), []byte("null"), "")
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	full, other := create(), create()
	write := func(a broker.Addresses) broker.Outcome {
		return b.PublishBatch(t.Context(), []string{a.Producer}, []*broker.Message{message(), message()}, l)[0]
	}
	eventually(t, "the replica has what is written", func() bool {
		return b.Publish(t.Context(), create().Producer, message(), l) == nil
	})
	sent = 0
	if o := write(full); o.Accepted != 2 || o.Err != nil {
		t.Fatalf("with the replica, the outcome of a batch is %+v", o)
	}
	held := make(chan broker.Outcome, 1)
	go func() { held <- write(full) }()
	eventually(t, "a batch waits for room", func() bool { return b.Stats().HeldProducers > 0 })
	replica.stop()

	unknown := func(how string, accepted int, err error) {
		t.Helper()
		if accepted != 0 || !errors.Is(err, broker.ErrOutcomeUnknown) {
			t.Errorf("without the replica, the outcome of %s is: %d accepted, %v", how, accepted, err)
		}
	}
	sub, err := b.Subscribe(t.Context(), full.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	takes(t, sub, "1", "2", "3", "4")
	outcome := <-held
	unknown("a batch that has waited", outcome.Accepted, outcome.Err)
	unknown("a write", 0, b.Publish(t.Context(), other.Producer, message(), l))
	outcome = write(create())
	unknown("a batch", outcome.Accepted, outcome.Err)
	in := b.Ingest(l)
	if err := in.Write(t.Context(), 0, []byte(create().Producer), message()); err != nil {
		t.Fatal(err)
	}
	if r := in.Finish(t.Context()); len(r.Failures) != 1 {
		t.Errorf("without the replica, the result of an ingest is %+v", r)
	} else {
		unknown("an ingest", r.Written, r.Failures[0].Err)
	}
}

// TestAWriteOfUnknownOutcomeWhileTheNodeEnds: Redis does not answer, and the node is told to end. The write may still be done.
func TestAWriteOfUnknownOutcomeWhileTheNodeEnds(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	o.Timeout = 200 * time.Millisecond
	b := open(t, o)
	a, err := b.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	m, err := broker.NewMessage("s", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	s.pause(t)
	outcome := make(chan error, 1)
	go func() { outcome <- b.Publish(t.Context(), a.Producer, m, faultLimits) }()
	time.Sleep(50 * time.Millisecond) // the write is on its way
	b.Close()
	if err := <-outcome; !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("the write fails with %v", err)
	}
}

// TestAReaderOfANodeThatEndsFindsTheChannelFree: once a read has ended because its node ends, the next one is not refused, neither
// where the reader hears of the end nor where it ends the read itself at the same time.
func TestAReaderOfANodeThatEndsFindsTheChannelFree(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	next := open(t, o)
	for i := range 40 {
		b := open(t, o)
		a, err := b.Create(t.Context(), "agent", faultLimits)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits})
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			b.Close()
		}()
		if i%2 == 0 {
			<-sub.Done()
		} else {
			time.Sleep(time.Duration(i*10) * time.Microsecond)
		}
		sub.End(broker.EndClean)
		if _, err := next.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits}); err != nil {
			t.Errorf("the next read fails: %v", err)
		}
		<-closed
	}
}

// TestAMessageThatGotInIsNotUnroutable: a call that waited has got in, its node has not heard of that, and then the channel was
// deleted. The reader may have the message, so the call must not fail as if the channel had never taken it.
func TestAMessageThatGotInIsNotUnroutable(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	writer, other := open(t, o), open(t, o)
	l := faultLimits
	l.Buffer, l.Hold = 1, 20*time.Second
	a, err := writer.Create(t.Context(), "agent", l)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, writer, a.Producer, "1")
	m, err := broker.NewMessage("2", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	outcome := make(chan error, 1)
	go func() { outcome <- writer.Publish(t.Context(), a.Producer, m, l) }()
	eventually(t, "the second message waits for room", func() bool { return writer.Stats().HeldProducers > 0 })
	// For a moment the nodes hear nothing that Redis pushes. Meanwhile the other node takes both messages and deletes the channel.
	if out, err := exec.Command("redis-cli", "-s", s.socket, "CLIENT", "KILL", "TYPE", "pubsub").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sub, err := other.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	takes(t, sub, "1", "2")
	if err := other.Delete(t.Context(), a.Producer); err != nil {
		t.Fatal(err)
	}
	// Or the writer's node has heard of it in time.
	if err := <-outcome; err != nil && !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("the write of a message that its reader has fails with %v", err)
	}
}

// TestAMessageOfATopicThatGotInCounts: the same with a publish. What it reports must not leave out a member whose reader has the
// message.
func TestAMessageOfATopicThatGotInCounts(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	other, b := open(t, s.options("test:")), open(t, through(s, p))
	l := topicLimits
	l.Buffer, l.Hold = 1, 20*time.Second
	a := members(t, b, "news", 1)[0]
	publish(t, b, a.Producer, "1")
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	type reply struct {
		broker.Published
		error
	}
	replies := make(chan reply, 1)
	go func() {
		got, err := b.PublishTopic(ctx, "news", topicMessage(t, "2", ""), broker.FullHold, l)
		replies <- reply{got, err}
	}()
	eventually(t, "the message waits for room", func() bool { return b.Stats().HeldProducers > 0 })
	pushes := p.subscribed()[0]
	p.change(func() { pushes.holds = true })
	sub, err := other.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	takes(t, sub, "1", "2")
	if err := other.Delete(t.Context(), a.Producer); err != nil {
		t.Fatal(err)
	}
	giveUp()
	time.AfterFunc(100*time.Millisecond, func() { p.change(func() { pushes.holds = false }) })
	want := broker.Published{Members: 1, Accepted: 1}
	if r := <-replies; (r.error != nil || r.Published != want) && !errors.Is(r.error, broker.ErrOutcomeUnknown) {
		t.Errorf("the publish reports %+v, %v; want %+v", r.Published, r.error, want)
	}
}

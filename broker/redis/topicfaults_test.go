package redis_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// openCluster starts a Broker on the cluster that tests share, and returns a client of it.
func openCluster(t *testing.T) (*redis.Broker, rueidis.Client) {
	t.Helper()
	needsRedis(t)
	addresses, err := sharedCluster()
	if err != nil {
		t.Fatal(err)
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: addresses, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return open(t, redis.Options{
		Addresses: addresses, Cluster: true, KeyPrefix: "test:" + rand.Text() + ":",
		DialTimeout: redis.DefaultDialTimeout, Timeout: redis.DefaultTimeout,
	}), c
}

func deleteKey(t *testing.T, c rueidis.Client, key string) {
	t.Helper()
	if n, err := c.Do(t.Context(), c.B().Del().Key(key).Build()).AsInt64(); err != nil || n != 1 {
		t.Fatalf("%d keys are deleted, %v", n, err)
	}
}

// TestAJoinThatDoesNotGoOnLeavesNothing: in a cluster, a join is a sequence of calls. A node that is gone after the first ones leaves a
// record that goes by itself, and then the home forgets it.
func TestAJoinThatDoesNotGoOnLeavesNothing(t *testing.T) {
	t.Parallel()
	b, c := openCluster(t)
	a := create(t, b)
	if err := redis.BeginJoin(b, a.Producer, "news"); err != nil {
		t.Fatal(err)
	}
	topics := func() int { return b.Stats().Topics }
	if err := redis.CheckScopes(b, "news"); err != nil || topics() != 1 {
		t.Fatalf("%d topics are known while a join is under way, %v", topics(), err)
	}
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{})
	_, record, _ := redis.TopicKeys(b, a.Producer, "news")
	if left, err := c.Do(t.Context(), c.B().Pttl().Key(record).Build()).AsInt64(); err != nil || left <= 0 || left > 60_000 {
		t.Errorf("the record goes after %d ms, %v", left, err)
	}
	deleteKey(t, c, record)
	if err := redis.CheckScopes(b, "news"); err != nil || topics() != 0 {
		t.Errorf("%d topics are left, %v", topics(), err)
	}
	if err := b.Join(t.Context(), a.Producer, broker.Join{Topic: "news"}, topicLimits); err != nil {
		t.Fatal(err)
	}
	publishes(t, b, "news", topicMessage(t, "2", ""), broker.Published{Members: 1, Accepted: 1})
}

// TestAPublishForgetsScopesWithoutMembers: the server of a scope has lost the members.
func TestAPublishForgetsScopesWithoutMembers(t *testing.T) {
	t.Parallel()
	b, c := openCluster(t)
	a := elsewhere(t, b, "news")
	_, record, list := redis.TopicKeys(b, a.Producer, "news")
	deleteKey(t, c, record)
	deleteKey(t, c, list)
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{})
	eventually(t, "the topic is gone", func() bool { return b.Stats().Topics == 0 })
}

// elsewhere returns a member of a topic that is not in the scope of the topic's home.
func elsewhere(t *testing.T, b *redis.Broker, topic string) broker.Addresses {
	t.Helper()
	for {
		a := create(t, b)
		home, record, _ := redis.TopicKeys(b, a.Producer, topic)
		if home[:len(home)-len("Hnews")] == record[:len(record)-len("Tnews")] {
			continue
		}
		if err := b.Join(t.Context(), a.Producer, broker.Join{Topic: topic}, topicLimits); err != nil {
			t.Fatal(err)
		}
		return a
	}
}

// TestAHomeThatHasLostATopicHearsOfItAgain: another server has become its primary, and lacks the last moments.
func TestAHomeThatHasLostATopicHearsOfItAgain(t *testing.T) {
	t.Parallel()
	b, c := openCluster(t)
	a := elsewhere(t, b, "news")
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{Members: 1, Accepted: 1})
	home, _, _ := redis.TopicKeys(b, a.Producer, "news")
	deleteKey(t, c, home)
	publishes(t, b, "news", topicMessage(t, "nobody", ""), broker.Published{})
	if err := redis.TellAgain(b); err != nil {
		t.Fatal(err)
	}
	publishes(t, b, "news", topicMessage(t, "2", ""), broker.Published{Members: 1, Accepted: 1})
	// It may know fewer walks than the scopes of members.
	goBack := func() {
		t.Helper()
		time.Sleep(2 * time.Millisecond) // numbers follow the clock, and no failover is as fast as two walks in one millisecond
		if err := c.Do(t.Context(), c.B().Hincrby().Key(home).Field("number").Increment(-1_000_000_000).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	goBack()
	publishes(t, b, "news", topicMessage(t, "3", ""), broker.Published{Members: 1, Accepted: 1})
	goBack()
	other := elsewhere(t, b, "news")
	publishes(t, b, "news", topicMessage(t, "4", ""), broker.Published{Members: 2, Accepted: 2})
	has(t, b, a, "1", "2", "3", "4")
	has(t, b, other, "4")
}

// TestAPublishInAClusterBreaksOff: members are in many scopes. A repeat brings the message to those that do not have it.
func TestAPublishInAClusterBreaksOff(t *testing.T) {
	t.Parallel()
	b, _ := openCluster(t)
	all := members(t, b, "news", 60)
	m := topicMessage(t, "1", "key")
	w := begin(t, b, "news", m)
	if w.Visited() > 10 {
		t.Fatalf("%d members are visited at first", w.Visited())
	}
	later := members(t, b, "news", 20)
	redis.BreakOff(w)
	publishes(t, b, "news", m, broker.Published{Members: 80, Accepted: 80})
	if one, _ := count(t, b, append(all, later...)); one != 80 {
		t.Errorf("%d channels have the message once", one)
	}
}

// TestANodeIsKilledInTheMiddleOfAPublish: another one publishes at once, and a repeat brings the message to those that do not have it.
func TestANodeIsKilledInTheMiddleOfAPublish(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	b := open(t, o)
	all := members(t, b, "news", 150)
	node := startNode(t, s, o.KeyPrefix, all[0].Consumer)
	if _, err := fmt.Fprintln(node.in, "walk news"); err != nil {
		t.Fatal(err)
	}
	for node.lines.Scan() && node.lines.Text() != "100" { // it reads, too
	}
	_ = node.process.Process.Kill()
	_ = node.process.Wait()
	begun := time.Now()
	publishes(t, b, "news", topicMessage(t, "2", ""), broker.Published{Members: 150, Accepted: 150})
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the turn of a node that is killed lasts %v", took)
	}
	publishes(t, b, "news", topicMessage(t, "1", "key"), broker.Published{Members: 150, Accepted: 150})
	late := 0
	for _, a := range all {
		ms, err := b.Peek(t.Context(), a.Producer, 10)
		if err != nil || len(ms) != 2 {
			t.Fatalf("a channel has %d messages, %v", len(ms), err)
		}
		if ms[1].StreamID() == "1" {
			late++
		}
	}
	if late != 50 {
		t.Errorf("%d channels got the message by the repeat, want 50", late)
	}
}

// TestTopicsWithoutRedis: while Redis does not answer, all calls end soon, with errors that say what is known.
func TestTopicsWithoutRedis(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	o := s.options("test:")
	o.Timeout = 300 * time.Millisecond
	b := open(t, o)
	a := members(t, b, "news", 1)[0]
	end, err := broker.NewEnd("news", broker.EndDone)
	if err != nil {
		t.Fatal(err)
	}
	s.pause(t)
	t.Cleanup(func() { s.resume(t) })
	for name, call := range map[string]func(context.Context) error{
		"publish": func(ctx context.Context) error {
			_, err := b.PublishTopic(ctx, "news", topicMessage(t, "1", ""), broker.FullHold, topicLimits)
			return err
		},
		"create": func(ctx context.Context) error {
			_, err := b.CreateMember(ctx, "agent", []broker.Join{{Topic: "news"}}, topicLimits)
			return err
		},
		"join":  func(ctx context.Context) error { return b.Join(ctx, a.Producer, broker.Join{Topic: "2"}, topicLimits) },
		"leave": func(ctx context.Context) error { return b.Leave(ctx, a.Producer, "news") },
		"keep":  func(ctx context.Context) error { return b.KeepTopic(ctx, "news", broker.Keep{}, topicLimits) },
		"close": func(ctx context.Context) error { return b.CloseTopic(ctx, "news", end, topicLimits) },
		"info":  func(ctx context.Context) error { _, err := b.Topic(ctx, "news"); return err },
		"list": func(ctx context.Context) error {
			_, err := b.ListTopics(ctx, broker.TopicListOptions{Limit: 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			err := call(t.Context())
			if !errors.Is(err, broker.ErrOutcomeUnknown) && !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("the error is %v", err)
			}
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("it takes %v", took)
			}
		})
	}
}

// TestAMessageForATopicNeedsItsReplica: without it, nobody knows whether the message survives.
func TestAMessageForATopicNeedsItsReplica(t *testing.T) {
	t.Parallel()
	needsRedis(t)
	port := freePort(t)
	s := ownServer(t, "--port", port, "--repl-diskless-sync-delay", "0")
	replica := ownServer(t, "--replicaof", "127.0.0.1 "+port)
	o := s.options("test:")
	o.Timeout, o.Durability = time.Second, redis.Durability{Replicas: 1}
	b := open(t, o)
	a := members(t, b, "news", 1)[0]
	m := topicMessage(t, "1", "key")
	eventually(t, "the replica has what is published", func() bool {
		_, err := b.PublishTopic(t.Context(), "news", m, broker.FullMiss, topicLimits)
		return err == nil
	})
	replica.stop()
	_, err := b.PublishTopic(t.Context(), "news", topicMessage(t, "2", "key 2"), broker.FullMiss, topicLimits)
	if !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("without the replica, a publish gets the error %v", err)
	}
	if err := replica.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a repeat succeeds", func() bool {
		got, err := b.PublishTopic(t.Context(), "news", topicMessage(t, "2", "key 2"), broker.FullMiss, topicLimits)
		return err == nil && got == broker.Published{Members: 1, Accepted: 1}
	})
	has(t, b, a, "1", "2")
}

// TestTopicsAfterAFailover: what the replica has of topics goes on there.
func TestTopicsAfterAFailover(t *testing.T) {
	t.Parallel()
	r := startReplicated(t)
	b := open(t, r.options)
	all := members(t, b, "news", 3)
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{Members: 3, Accepted: 3})
	caughtUp(t, r)
	r.primary.stop()
	eventually(t, "the replica takes over", func() bool {
		got, err := b.PublishTopic(t.Context(), "news", topicMessage(t, "2", "key"), broker.FullMiss, topicLimits)
		return err == nil && got == broker.Published{Members: 3, Accepted: 3}
	})
	for i, a := range all {
		has(t, b, a, "1", "2")
		if err := b.Leave(t.Context(), a.Producer, "news"); err != nil {
			t.Fatal(i, err)
		}
	}
	if i, err := b.Topic(t.Context(), "news"); err != nil || fmt.Sprint(i) != fmt.Sprint(broker.TopicInfo{Name: "news"}) {
		t.Errorf("the topic is %+v, %v", i, err)
	}
}

// TestHomesAreLookedAfterInFewRoundTrips: the members of a topic are in many scopes. To look after its home must not keep the node from
// its heartbeats.
func TestHomesAreLookedAfterInFewRoundTrips(t *testing.T) {
	t.Parallel()
	b, _ := openCluster(t)
	for range 60 {
		members(t, b, "news", 1)
	}
	for what, call := range map[string]func() error{
		"its scopes are checked": func() error { return redis.CheckScopes(b, "news") },
		"it is told again":       func() error { return redis.TellAgain(b) },
	} {
		least := uint64(1 << 32)
		for range 3 { // the node does other things beside it
			before := b.RoundTrips()
			if err := call(); err != nil {
				t.Fatal(err)
			}
			least = min(least, b.RoundTrips()-before)
		}
		if least > 10 {
			t.Errorf("%s: that takes %d round trips", what, least)
		}
	}
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{Members: 60, Accepted: 60})
}

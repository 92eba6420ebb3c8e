package redis_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// clusterReaders starts two nodes on a cluster, and readers of channels that are spread over its servers.
type clusterReaders struct {
	writer, reader *redis.Broker
	channels       []broker.Addresses
	subs           []broker.Subscription
	rounds         int
}

func startReaders(t *testing.T, c *cluster) *clusterReaders {
	t.Helper()
	o := redis.Options{
		Addresses: c.addresses[:primaries], Cluster: true, KeyPrefix: "test:", DialTimeout: time.Second, Timeout: time.Second,
	}
	r := &clusterReaders{writer: open(t, o), reader: open(t, o)}
	for range 40 {
		a := create(t, r.writer)
		r.channels = append(r.channels, a)
		r.subs = append(r.subs, subscribe(t, r.reader, a.Consumer))
	}
	return r
}

// round writes to all channels, and waits until all readers have it.
func (r *clusterReaders) round(t *testing.T) {
	t.Helper()
	r.rounds++
	name := fmt.Sprint("round ", r.rounds)
	for _, a := range r.channels {
		eventually(t, "a write succeeds", func() bool { return tryPublish(t, r.writer, a.Producer, name) == nil })
	}
	for _, sub := range r.subs {
		takes(t, sub, name)
	}
}

func ownCluster(t *testing.T, replicas int) *cluster {
	t.Helper()
	needsRedis(t)
	c, err := startCluster(t.TempDir(), replicas)
	t.Cleanup(func() {
		for _, s := range c.servers {
			s.stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAReplicaOfAClusterTakesOver: readers of channels on the server that is killed go on at its replica.
func TestAReplicaOfAClusterTakesOver(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 1)
	r := startReaders(t, c)
	r.round(t)
	// WAIT waits for what its own connection has written, so it cannot tell whether the replica has the channels.
	written := c.replication(0)["master_repl_offset"]
	eventually(t, "the replica has everything", func() bool {
		info := c.replication(primaries)
		return info["master_link_status"] == "up" && offset(info["slave_repl_offset"]) >= offset(written)
	})
	c.servers[0].stop()
	r.round(t)
	start := time.Now()
	r.round(t)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("after the failover, messages need %v", took)
	}
	eventually(t, "health is good", func() bool { return r.reader.Healthy() == nil })
}

// replication returns what a server tells of its replication.
func (c *cluster) replication(i int) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(c.cli(i, "INFO", "replication")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	return info
}

func offset(text string) (n int64) {
	_, _ = fmt.Sscan(text, &n)
	return n
}

// TestSlotsOfAClusterMove: readers follow their channels from one server to another.
func TestSlotsOfAClusterMove(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 0)
	r := startReaders(t, c)
	r.round(t)
	from := c.servers[0].client(t)
	slots := map[string]bool{}
	names, err := from.Do(t.Context(), from.B().Keys().Pattern("test:*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		slot, err := from.Do(t.Context(), from.B().ClusterKeyslot().Key(name).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		slots[fmt.Sprint(slot)] = true
	}
	w := watch(r.writer, 3*time.Second)
	waits, leave := r.waits(t, from, slots)
	eventually(t, "nodes note where messages wait", func() bool { return redisDo(t, from, "EXISTS", leave[1]) == "1" })
	publish(t, r.writer, waits.Producer, "waits")
	redisDo(t, from, leave...) // as if it had not been noted
	for slot := range slots {
		c.move(t, from, slot)
	}
	if len(slots) < 5 {
		t.Errorf("only %d slots move", len(slots))
	}
	start := time.Now()
	r.round(t)
	r.round(t)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("after the slots have moved, messages need %v", took)
	}
	eventually(t, "health is good", func() bool { return r.reader.Healthy() == nil })
	w.learns(t, waits.Consumer)
}

// waits creates a channel in one of the slots of a server that has readers, and returns how to forget that messages wait in it.
func (r *clusterReaders) waits(t *testing.T, on rueidis.Client, slots map[string]bool) (a broker.Addresses, leave []string) {
	t.Helper()
	for {
		a := create(t, r.writer)
		set, member, _ := redis.WaitingKeys(r.writer, a.Producer)
		if slots[redisDo(t, on, "CLUSTER", "KEYSLOT", set)] {
			return a, []string{"ZREM", set, member}
		}
	}
}

// move moves a slot from the first server to the second.
func (c *cluster) move(t *testing.T, from rueidis.Client, slot string) {
	t.Helper()
	for _, step := range [][]string{{"1", "IMPORTING", c.id(0)}, {"0", "MIGRATING", c.id(1)}} {
		if out := c.cli(int(step[0][0]-'0'), "CLUSTER", "SETSLOT", slot, step[1], step[2]); !strings.HasPrefix(out, "OK") {
			t.Fatal(out)
		}
	}
	for {
		keys, err := from.Do(t.Context(), from.B().Arbitrary("CLUSTER", "GETKEYSINSLOT", slot, "100").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		migrate := append([]string{"MIGRATE", "127.0.0.1", c.ports[1], "", "0", "5000", "KEYS"}, keys...)
		if err := from.Do(t.Context(), from.B().Arbitrary(migrate...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{1, 0, 2} {
		if out := c.cli(i, "CLUSTER", "SETSLOT", slot, "NODE", c.id(1)); !strings.HasPrefix(out, "OK") {
			t.Fatal(out)
		}
	}
}

// TestAServerThatIsDownStopsNoWork: channels on the other servers of the cluster expire, and that is reported.
func TestAServerThatIsDownStopsNoWork(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 0)
	b := open(t, redis.Options{
		Addresses: c.addresses[:primaries], Cluster: true, KeyPrefix: "test:", DialTimeout: time.Second, Timeout: time.Second,
	})
	var reported atomic.Int64
	b.OnDeletions(func(ds []broker.Deletion) { reported.Add(int64(len(ds))) })
	l := faultLimits
	l.TTL = 3 * time.Second
	const channels = 60
	all := make([]broker.Addresses, channels)
	for i := range all {
		var err error
		if all[i], err = b.Create(t.Context(), "agent", l); err != nil {
			t.Fatal(err)
		}
	}
	c.servers[2].stop()
	states := func() (there, gone int) {
		for _, a := range all {
			if _, err := b.State(t.Context(), a.Consumer); err == nil {
				there++
			} else if errors.Is(err, broker.ErrNotFound) {
				gone++
			}
		}
		return there, gone
	}
	if there, gone := states(); there < channels/3 || there == channels || gone > 0 {
		t.Fatalf("%d channels are there at first, and %d are gone", there, gone)
	}
	eventually(t, "channels on the other servers expire", func() bool {
		there, gone := states()
		// What has no channel as a consumer address may be a producer address, of a channel on the server that is down.
		return there == 0 && gone >= channels/6
	})
	eventually(t, "that is reported", func() bool { return reported.Load() >= channels/3 })
}

// TestAServerThatHangsStopsNoWork: it takes the node a while each time to find out that a server does not answer. Meanwhile it tells that
// it lives, and looks after the channels on the other servers.
func TestAServerThatHangsStopsNoWork(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 0)
	b := open(t, redis.Options{
		Addresses: c.addresses, Cluster: true, KeyPrefix: "test:", DialTimeout: redis.DefaultDialTimeout, Timeout: redis.DefaultTimeout,
	})
	var reported atomic.Int64
	b.OnDeletions(func(ds []broker.Deletion) { reported.Add(int64(len(ds))) })
	l := faultLimits
	l.TTL = 3 * time.Second
	for range 60 {
		if _, err := b.Create(t.Context(), "agent", l); err != nil {
			t.Fatal(err)
		}
	}
	const hangs = primaries - 1 // the first server has the nodes
	there := int64(0)
	for i := range hangs {
		there += int64(strings.Count(c.cli(i, "KEYS", "test:{*}s*"), "test:{"))
	}
	c.servers[hangs].pause(t)
	t.Cleanup(func() { c.servers[hangs].resume(t) })
	var h heartbeats
	// A round of work takes some seconds, since parts of it wait for the server that hangs.
	holdsWithin(t, time.Minute, "channels on the other servers are reported", func() bool {
		h.see(c.cli(0, "ZRANGE", redis.NodesKey(b), "0", "-1", "WITHSCORES"))
		return reported.Load() >= there
	})
	h.within(t, 7*time.Second) // after 10 s, other nodes would take it for gone
}

package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// A store is one server, or those of a cluster.
type store struct {
	options redis.Options
	servers []*server
}

// keys returns the keys of a pattern on all servers.
func (s *store) keys(pattern string) (keys []string) {
	for _, server := range s.servers {
		keys = append(keys, strings.Fields(server.cli("KEYS", pattern))...)
	}
	return keys
}

// each runs a command on all servers.
func (s *store) each(args ...string) {
	for _, server := range s.servers {
		server.cli(args...)
	}
}

// on runs a command for each of some keys, on the server that has it. args are what comes before and after the key.
func (s *store) on(keys []string, before []string, after ...string) {
	for _, key := range keys {
		for _, server := range s.servers {
			server.cli(append(append(before, key), after...)...) // those that do not have it refuse
		}
	}
}

// forgets makes it so that nobody has wanted to know for a minute where messages wait.
func (s *store) forgets() { s.on(s.keys("test:{*}r"), []string{"ZADD"}, "XX", "1", "until") }

// refuses lets nodes take no reports from the streams, or lets them again.
func (s *store) refuses(refuses bool) {
	rule := "+xreadgroup"
	if refuses {
		rule = "-xreadgroup"
	}
	s.each("ACL", "SETUSER", "default", rule)
}

// TestReportsThatNobodyHasTakenAreMadeLater: when the last node that wants to know is gone, reports are left that no node has taken, or
// that one has taken and not made. When somebody wants to know again, they are made, once.
func TestReportsThatNobodyHasTakenAreMadeLater(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		s := ownServer(t)
		testReportsMadeLater(t, &store{s.options("test:"), []*server{s}}, 500)
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		c := ownCluster(t, 0)
		testReportsMadeLater(t, &store{redis.Options{
			Addresses: c.addresses, Cluster: true, KeyPrefix: "test:",
			DialTimeout: redis.DefaultDialTimeout, Timeout: redis.DefaultTimeout,
		}, c.servers}, 20)
	})
}

func testReportsMadeLater(t *testing.T, s *store, channels int) {
	t.Helper()
	s.refuses(true)
	b := open(t, s.options)
	var all []string
	for range channels {
		a := create(t, b)
		publish(t, b, a.Producer, "1")
		all = append(all, a.Consumer)
	}
	come, gone, left := create(t, b), create(t, b), create(t, b)
	for _, a := range []broker.Addresses{come, gone, left} {
		publish(t, b, a.Producer, "1")
	}
	w := watch(b, time.Millisecond)
	told := func(a broker.Addresses) bool { return redis.IsTold(b, a.Producer) }
	eventually(t, "all are to be reported", func() bool { return told(come) && told(gone) && told(left) })
	time.Sleep(1500 * time.Millisecond) // and the others
	b.Close()
	w.knows(t)
	s.refuses(false)
	streams := s.keys("test:{*}e")
	for _, stream := range streams[:(len(streams)+1)/2] {
		s.on([]string{stream}, []string{"XGROUP", "CREATE"}, "nodes", "0")
		s.on([]string{stream}, []string{"XREADGROUP", "GROUP", "nodes", "nodes", "COUNT", "7", "STREAMS"}, ">") // by a node that is killed
	}
	s.forgets()
	b = open(t, s.options)
	reader := subscribe(t, b, come.Consumer)
	subscribe(t, b, left.Consumer).End(broker.EndFault)
	if err := b.Delete(t.Context(), gone.Producer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is kept any more", func() bool { return len(s.keys("test:{*}[re]")) == 0 })
	w = watch(b, time.Millisecond)
	all = append(all, left.Consumer)
	for _, consumer := range all {
		w.learns(t, consumer)
	}
	w.knows(t, all...)
	reader.End(broker.EndFault)
	w.learns(t, come.Consumer)
	w.knows(t, append(all, come.Consumer)...)
}

// TestReportsAreWantedAgainWhileTheyAreTakenBack: each is made once, whether it was taken back already or not.
func TestReportsAreWantedAgainWhileTheyAreTakenBack(t *testing.T) {
	t.Parallel()
	s := &store{}
	s.servers = []*server{ownServer(t)}
	s.options = s.servers[0].options("test:")
	s.refuses(true)
	b := open(t, s.options)
	w := watch(b, time.Millisecond)
	var all, producers []string
	for range 20 {
		a := create(t, b)
		publish(t, b, a.Producer, "1")
		all, producers = append(all, a.Consumer), append(producers, a.Producer)
	}
	for _, producer := range producers {
		eventually(t, "it is to be reported", func() bool { return redis.IsTold(b, producer) })
	}
	w.after.Store(0)
	s.forgets()
	if err := redis.TakeBackSome(b, 7); err != nil {
		t.Fatal(err)
	}
	s.refuses(false)
	w.after.Store(int64(time.Millisecond))
	for _, consumer := range all {
		w.learns(t, consumer)
	}
	w.knows(t, all...)
}

// TestNoReportIsDroppedForOthers: more is to be reported than Redis keeps, because no node takes it. The rest waits.
func TestNoReportIsDroppedForOthers(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	only := &store{s.options("test:"), []*server{s}}
	only.refuses(true)
	b := open(t, only.options)
	first, next := create(t, b), create(t, b)
	publish(t, b, first.Producer, "1")
	w := watch(b, time.Millisecond)
	_, member, stream := redis.WaitingKeys(b, first.Producer)
	eventually(t, "it is to be reported", func() bool { return redis.IsTold(b, first.Producer) })
	s.command(t, "EVAL", "for i = 1, 1000200 do redis.call('XADD', KEYS[1], '*', 'w', '') end", "1", stream)
	publish(t, b, next.Producer, "1")
	time.Sleep(2500 * time.Millisecond) // two sweeps
	if oldest := s.cli("XRANGE", stream, "-", "+", "COUNT", "1"); !strings.Contains(oldest, "agent") {
		t.Errorf("the oldest report is %q, want that of %q", oldest, member)
	}
	s.command(t, "DEL", stream)
	only.refuses(false)
	w.learns(t, next.Consumer)
}

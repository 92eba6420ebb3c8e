package nodes

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// newRedisCluster starts a Redis Cluster of three servers on loopback, without replicas, and returns the first of them.
func newRedisCluster(tb testing.TB) *store {
	tb.Helper()
	const slots, servers = 16384, 3
	var all []*store
	var ports, buses []string
	for range servers {
		port, bus := strconv.Itoa(testserver.FreePort(tb)), strconv.Itoa(testserver.FreePort(tb))
		s := newStore(tb, "--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", bus)
		s.address = "127.0.0.1:" + port
		all, ports, buses = append(all, s), append(ports, port), append(buses, bus)
	}
	for i, s := range all {
		s.all = all
		s.try("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/servers), fmt.Sprint((i+1)*slots/servers-1))
		if i > 0 {
			all[0].try("CLUSTER", "MEET", "127.0.0.1", ports[i], buses[i])
		}
	}
	unready := func(s *store) bool {
		info := s.try("CLUSTER", "INFO")
		return !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", servers))
	}
	for limit := time.Now().Add(patience); slices.ContainsFunc(all, unready); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatalf("the Redis Cluster does not form: %s", all[0].try("CLUSTER", "INFO"))
		}
	}
	return all[0]
}

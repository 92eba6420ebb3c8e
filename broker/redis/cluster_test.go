package redis_test

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// sharedCluster is a Redis Cluster of three servers on loopback.
var sharedCluster = sync.OnceValues(func() ([]string, error) {
	c, err := startCluster(tempDir, 0)
	if c != nil {
		started = append(started, c.servers...)
	}
	if err != nil {
		return nil, err
	}
	return c.addresses, nil
})

// A cluster is a Redis Cluster on loopback: three primaries and perhaps replicas, of the first, the second and so on.
type cluster struct {
	servers   []*server
	ports     []string
	buses     []string // ports of the cluster bus
	addresses []string
}

const primaries = 3

// startCluster starts a cluster. It returns one even if it fails, so its servers can be stopped.
func startCluster(dir string, replicas int) (*cluster, error) {
	c := &cluster{}
	for range primaries + replicas {
		port, err := testserver.Port()
		if err != nil {
			return c, err
		}
		bus, err := testserver.Port()
		if err != nil {
			return c, err
		}
		c.ports, c.buses = append(c.ports, strconv.Itoa(port)), append(c.buses, strconv.Itoa(bus))
		c.addresses = append(c.addresses, fmt.Sprintf("127.0.0.1:%d", port))
	}
	timeout := "15000"
	if replicas > 0 { // so that they take over soon
		timeout = "3000"
	}
	for i, port := range c.ports {
		s, err := startServer(dir, "--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes",
			"--cluster-config-file", "nodes-"+port+".conf", "--cluster-port", c.buses[i],
			"--cluster-node-timeout", timeout, "--repl-diskless-sync-delay", "0")
		if err != nil {
			return c, err
		}
		c.servers = append(c.servers, s)
	}
	for i := range primaries {
		c.cli(i, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*16384/primaries), fmt.Sprint((i+1)*16384/primaries-1))
		c.cli(i, "CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	for i, port := range c.ports[1:] {
		c.cli(0, "CLUSTER", "MEET", "127.0.0.1", port, c.buses[i+1])
	}
	if !c.agree("cluster_slots_ok:16384", fmt.Sprintf("cluster_known_nodes:%d", len(c.ports))) {
		return c, fmt.Errorf("the cluster does not form: %s", c.cli(0, "CLUSTER", "INFO"))
	}
	for i := range replicas {
		for range 100 { // until it knows the primary
			if strings.HasPrefix(c.cli(primaries+i, "CLUSTER", "REPLICATE", c.id(i)), "OK") {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		// A replica that the other primaries do not know yet as one never gets their votes.
		for range 100 {
			known := 0
			for at := range c.ports {
				if strings.Contains(c.cli(at, "CLUSTER", "NODES"), "slave "+c.id(i)) {
					known++
				}
			}
			if known == len(c.ports) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return c, nil
}

// id returns the name of a server.
func (c *cluster) id(i int) string { return strings.TrimSpace(c.cli(i, "CLUSTER", "MYID")) }

// cli runs a command on a server.
func (c *cluster) cli(i int, args ...string) string {
	return c.servers[i].cli(args...)
}

// agree waits until all servers say this of the cluster.
func (c *cluster) agree(want ...string) bool {
	for range 300 {
		ok := 0
		for i := range c.ports {
			info := c.cli(i, "CLUSTER", "INFO")
			if !slices.ContainsFunc(append(want, "cluster_state:ok"), func(w string) bool { return !strings.Contains(info, w) }) {
				ok++
			}
		}
		if ok == len(c.ports) {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

func TestCluster(t *testing.T) {
	needsRedis(t)
	addresses, err := sharedCluster()
	if err != nil {
		t.Fatal(err)
	}
	brokertest.Run(t, brokertest.Options{
		New: func(t *testing.T) broker.Broker {
			return open(t, redis.Options{
				Addresses: addresses, Cluster: true, KeyPrefix: "test:" + rand.Text() + ":",
				DialTimeout: redis.DefaultDialTimeout, Timeout: redis.DefaultTimeout,
			})
		},
		RealTime: true, Shared: true, Copies: true, SoftLimits: true,
	})
}

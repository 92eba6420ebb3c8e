package redis_test

import (
	"crypto/rand"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// sharedCluster is a Redis Cluster of three servers on loopback.
var sharedCluster = sync.OnceValues(startCluster)

func startCluster() (addresses []string, err error) {
	var ports []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
		addresses = append(addresses, l.Addr().String())
		_ = l.Close()
	}
	cli := func(port string, args ...string) string {
		out, _ := exec.Command("redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
		return string(out)
	}
	for i, port := range ports {
		s, err := startServer(tempDir, "--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes",
			"--cluster-config-file", "nodes-"+port+".conf", "--cluster-port", fmt.Sprint(clusterPort(port)))
		if err != nil {
			return nil, err
		}
		started = append(started, s)
		cli(port, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*16384/3), fmt.Sprint((i+1)*16384/3-1))
		cli(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	for _, port := range ports[1:] {
		cli(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, fmt.Sprint(clusterPort(port)))
	}
	for range 300 {
		ok := 0
		for _, port := range ports {
			info := cli(port, "CLUSTER", "INFO")
			if strings.Contains(info, "cluster_slots_ok:16384") && strings.Contains(info, "cluster_state:ok") {
				ok++
			}
		}
		if ok == len(ports) {
			return addresses, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("the cluster does not form: %s", cli(ports[0], "CLUSTER", "INFO"))
}

// clusterPort is the port of a server's cluster bus.
func clusterPort(port string) int {
	var n int
	_, _ = fmt.Sscan(port, &n)
	return 1024 + (n+20_000)%40_000
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

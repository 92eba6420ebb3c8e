package integration

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestAVanishedPlainReaderLosesNothing lets the client's machine vanish, as in a tunnel: nothing is acknowledged from
// then on, and no connection breaks. Server and client have a network namespace each, joined by a link that is taken
// down. That needs root and iproute2, so it is run on demand:
//
//	MEGAPHONE_NETNS=1 go test -run Vanished ./integration
func TestAVanishedPlainReaderLosesNothing(t *testing.T) {
	if os.Getenv("MEGAPHONE_NETNS") == "" {
		t.Skip("needs root and iproute2, and is enabled by MEGAPHONE_NETNS=1")
	}
	for name, connection := range plainConnections {
		for end, settings := range map[string]string{
			`"reason":"complete"`: "read_duration 3s\nwrite_timeout 30s", // the server ends the read cleanly
			`"reason":"broken"`:   "read_duration 1m\nwrite_timeout 1s",  // the client is cut off
		} {
			t.Run(name+" "+end, func(t *testing.T) {
				server, client := newNamespaces(t)
				n := &network{Server: testserver.New(t), T: t, dial: server.dial}
				if err := server.do(func() { n.start(t, "hold 300ms\n"+settings) }); err != nil {
					t.Fatal(err)
				}
				m := n.create(t)

				// The client comes over the link.
				reader := *n
				reader.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					_, port, err := net.SplitHostPort(address)
					if err != nil {
						return nil, err
					}
					return client.dial(ctx, network, net.JoinHostPort(serverIP, port))
				}
				url := n.http
				if connection.secure {
					url = n.https
				}
				response := open(t, reader.linkClient(t, connection.http2).Client, url+"/read/"+m.ConsumerAddress)
				if response.StatusCode != http.StatusOK || (response.ProtoMajor == 2) != connection.http2 {
					t.Fatalf("%s %s", response.Status, response.Proto)
				}
				run(t, "ip", "-n", client.name, "link", "set", "mp1", "down")
				accepted := 50 // fewer than the window holds: the server's writes succeed, and nothing looks wrong
				if strings.Contains(end, "broken") {
					accepted = n.flood(t, m)
				} else {
					n.writeMany(t, m, accepted)
				}
				n.Await("the read is over", func() bool { return strings.Contains(n.Log(), end) })
				n.awaitFree(t, m)
				v := newView()
				n.drain(t, m, v)
				if len(v.bodies) != accepted {
					t.Errorf("%d messages have come again, %d were accepted", len(v.bodies), accepted)
				}
			})
		}
	}
}

// A namespace is a network of its own.
type namespace struct {
	name string
	fd   int
}

const serverIP, clientIP = "10.213.77.1", "10.213.77.2"

// newNamespaces makes two that are joined by a link.
func newNamespaces(t *testing.T) (server, client *namespace) {
	t.Helper()
	server, client = newNamespace(t, "mp-server"), newNamespace(t, "mp-client")
	run(t, "ip", "-n", server.name, "link", "add", "mp0", "type", "veth", "peer", "name", "mp1", "netns", client.name)
	run(t, "ip", "-n", server.name, "addr", "add", serverIP+"/30", "dev", "mp0")
	run(t, "ip", "-n", client.name, "addr", "add", clientIP+"/30", "dev", "mp1")
	run(t, "ip", "-n", server.name, "link", "set", "mp0", "up")
	run(t, "ip", "-n", client.name, "link", "set", "mp1", "up")
	run(t, "ip", "-n", server.name, "link", "set", "lo", "up")
	return server, client
}

func newNamespace(t *testing.T, name string) *namespace {
	t.Helper()
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
	fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &namespace{name, fd}
}

// do runs f in the namespace: sockets and processes that f makes itself stay there. The thread is not used again.
func (ns *namespace) do(f func()) error {
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
	}()
	return <-done
}

func (ns *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	failed := ns.do(func() {
		// Not localhost, for whose addresses other goroutines are started.
		address = strings.Replace(address, "localhost", "127.0.0.1", 1)
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
	})
	if failed != nil {
		return nil, failed
	}
	return conn, err
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if output, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, output)
	}
}

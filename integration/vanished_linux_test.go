package integration

import (
	"context"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestAVanishedPlainReaderLosesNothing makes the client's machine vanish, as in a tunnel. From then on, the machine
// acknowledges nothing, and no connection breaks. Server and client each have a network namespace. A link joins them,
// and the test takes it down. That needs root and iproute2, so the test only runs on demand:
//
//	MEGAPHONE_NETNS=1 go test -run Vanished ./integration
func TestAVanishedPlainReaderLosesNothing(t *testing.T) {
	if os.Getenv("MEGAPHONE_NETNS") == "" {
		t.Skip("needs root and iproute2; set MEGAPHONE_NETNS=1 to run it")
	}
	for name, connection := range plainConnections {
		for end, settings := range map[string]string{
			`"reason":"complete"`: "read_duration 3s\nwrite_timeout 30s", // the server ends the read cleanly
			`"reason":"broken"`:   "read_duration 1m\nwrite_timeout 1s",  // the server cuts off the client
		} {
			t.Run(name+" "+end, func(t *testing.T) {
				server, client := newNamespaces(t)
				n := &network{Server: testserver.New(t), T: t, dial: server.dial}
				if err := server.do(func() { n.start(t, "hold 300ms\n"+settings) }); err != nil {
					t.Fatal(err)
				}
				ch := n.create(t)

				// The client connects over the link.
				reader := *n
				reader.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					_, port, err := net.SplitHostPort(address)
					if err != nil {
						return nil, err
					}
					return client.dial(ctx, network, net.JoinHostPort(serverIP, port))
				}
				reader.plainReader(t, ch, connection)
				run(t, "ip", "-n", client.name, "link", "set", "mp1", "down")
				accepted := 50 // less than the window, so the server's writes succeed and nothing looks wrong
				if strings.Contains(end, "broken") {
					accepted = n.flood(t, ch)
				} else {
					n.writeMany(t, ch, accepted)
				}
				n.Await("the read is over", func() bool { return strings.Contains(n.Log(), end) })
				n.awaitFree(t, ch)
				v := newView()
				n.pollAll(t, ch, v)
				if len(v.bodies) != accepted {
					t.Errorf("%d messages were sent again, but the server had accepted %d", len(v.bodies), accepted)
				}
			})
		}
	}
}

// A namespace is a network namespace.
type namespace struct {
	name string
	fd   int
}

const serverIP, clientIP = "10.213.77.1", "10.213.77.2"

// newNamespaces makes two namespaces and a link between them.
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

// do runs f in the namespace. Sockets and processes that f itself makes stay there. The thread is not used again.
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
		// Dialing localhost would start goroutines on threads outside the namespace.
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

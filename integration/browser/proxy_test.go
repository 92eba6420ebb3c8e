//go:build browser && unix

package browser

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A network is between the browser and the server. It can break the connections that go through it.
type network struct {
	listener net.Listener
	server   string

	mu    sync.Mutex
	down  bool
	conns map[*net.TCPConn]struct{}
	went  int // how many connections it has broken
}

// newNetwork returns a network to the server's address. It works until the test ends.
func newNetwork(tb testing.TB, server string) *network {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n := &network{listener: listener, server: server, conns: map[*net.TCPConn]struct{}{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { n.pass(conn.(*net.TCPConn)) })
		}
	})
	tb.Cleanup(func() {
		listener.Close()
		n.setDown(true)
		serving.Wait()
	})
	return n
}

// address returns the address that the browser must connect to.
func (n *network) address() string { return n.listener.Addr().String() }

// pass carries a connection until one side ends it or the network breaks it.
func (n *network) pass(client *net.TCPConn) {
	conn, err := net.Dial("tcp", n.server)
	if err != nil {
		client.Close()
		return
	}
	server := conn.(*net.TCPConn)
	n.mu.Lock()
	n.conns[client], n.conns[server] = struct{}{}, struct{}{}
	if n.down {
		n.reset()
	}
	n.mu.Unlock()

	var carrying sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		carrying.Go(func() {
			carry(way[0], way[1])
			_ = way[0].CloseWrite()
		})
	}
	carrying.Wait()
	n.mu.Lock()
	delete(n.conns, client)
	delete(n.conns, server)
	n.mu.Unlock()
	client.Close()
	server.Close()
}

// latency is how long data takes to the other side.
const latency = 50 * time.Millisecond

// carry passes data from one side to the other, after the latency. During that time, the sender has an acknowledgement,
// but the receiver does not have the data.
func carry(to, from *net.TCPConn) {
	for buffer := make([]byte, 64<<10); ; {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		time.Sleep(latency)
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// reset breaks all connections with a TCP reset, as a crashed peer does. Data on its way is lost. The caller must hold
// the lock.
func (n *network) reset() {
	for conn := range n.conns {
		_ = conn.SetLinger(0)
		conn.Close()
		n.went++
	}
	clear(n.conns)
}

// breakAll resets all connections.
func (n *network) breakAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reset()
}

// setDown takes the network down or brings it up. While it is down, the network resets all current and new connections.
func (n *network) setDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
	if down {
		n.reset()
	}
}

// broken returns how many connections the network has broken. Each counts twice, once per side.
func (n *network) broken() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.went
}

// awaitCertificate waits until a site has its certificate. A site gets it only after it has begun to serve.
func awaitCertificate(t *testing.T, server *testserver.Server, host string, port int) {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: server.Roots(), ServerName: host}}
	server.Await("the site has its certificate", func() bool {
		conn, err := dialer.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

//go:build browser && unix

package browser

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A network stands between the browser and the server, and can break what goes through it.
type network struct {
	listener net.Listener
	server   string

	mu    sync.Mutex
	down  bool
	conns map[*net.TCPConn]struct{}
	went  int // connections that were broken
}

// newNetwork returns a network that leads to the server's address, until the test ends.
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

// address is where the browser is to connect to.
func (n *network) address() string { return n.listener.Addr().String() }

// pass carries a connection until either side ends it, or it is broken.
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

// latency is how long data is under way.
const latency = 50 * time.Millisecond

// carry passes on what comes from one side to the other, and lets it be under way for a while. Meanwhile the sender
// has it acknowledged, and the receiver has not got it.
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

// reset breaks all connections, in the way of a peer that has crashed: with a TCP reset, and what is under way lost.
// The lock is held.
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

// setDown makes the network reset every connection, those of the present and all that come, or ends that.
func (n *network) setDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
	if down {
		n.reset()
	}
}

// broken returns how many connections were broken, counted on both sides.
func (n *network) broken() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.went
}

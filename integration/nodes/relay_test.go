package nodes

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A relay passes connections on to a server over a network that a test disturbs.
type relay struct {
	address string
	delay   atomic.Int64 // in nanoseconds, each way

	mu     sync.Mutex
	socket string // of the server
	conns  map[net.Conn]struct{}
	flows  chan struct{} // closed while the relay passes data on
}

// newRelay returns a relay to a Unix socket. The test's end closes it.
func newRelay(tb testing.TB, socket string) *relay {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &relay{address: listener.Addr().String(), socket: socket, conns: map[net.Conn]struct{}{}, flows: make(chan struct{})}
	close(r.flows)
	tb.Cleanup(func() {
		_ = listener.Close()
		r.cut()
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.pass(conn)
		}
	}()
	return r
}

func (r *relay) pass(client net.Conn) {
	r.mu.Lock()
	server, err := net.Dial("unix", r.socket)
	if err != nil {
		r.mu.Unlock()
		_ = client.Close()
		return
	}
	r.conns[client], r.conns[server] = struct{}{}, struct{}{}
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.pump(client, server) })
	both.Go(func() { r.pump(server, client) })
	both.Wait()
	r.mu.Lock()
	delete(r.conns, client)
	delete(r.conns, server)
	r.mu.Unlock()
}

// pump passes data on, each piece after the delay.
func (r *relay) pump(to, from net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 10_000)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, 32<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				pieces <- piece{buffer[:n], time.Now().Add(time.Duration(r.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		<-r.flow()
		if !broken {
			_, err := to.Write(p.data)
			broken = err != nil
		}
	}
	_ = to.Close()
	_ = from.Close()
}

func (r *relay) flow() chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flows
}

// cut resets all connections of the present.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// redirect cuts all connections, and passes new ones on to another server.
func (r *relay) redirect(socket string) {
	r.mu.Lock()
	r.socket = socket
	r.mu.Unlock()
	r.cut()
}

// hold keeps all data back for a time. Then it comes.
func (r *relay) hold(d time.Duration) {
	held := make(chan struct{})
	r.mu.Lock()
	r.flows = held
	r.mu.Unlock()
	time.Sleep(d)
	close(held)
}

// slow delays what comes while f runs.
func (r *relay) slow(delay time.Duration, f func()) {
	r.delay.Store(int64(delay))
	defer r.delay.Store(0)
	f()
}

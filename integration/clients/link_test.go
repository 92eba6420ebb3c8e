package clients

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// A link passes connections on to a server. A test can cut them.
type link struct {
	url string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	cuts  int
}

func newLink(t *testing.T, url string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{url: "http://" + listener.Addr().String(), conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go l.pass(conn, strings.TrimPrefix(url, "http://"))
		}
	}()
	return l
}

func (l *link) pass(client net.Conn, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		_ = client.Close()
		return
	}
	l.mu.Lock()
	l.conns[client], l.conns[server] = struct{}{}, struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
		both.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		})
	}
	both.Wait()
	l.mu.Lock()
	delete(l.conns, client)
	delete(l.conns, server)
	l.mu.Unlock()
}

// cut resets all current connections.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
		l.cuts++
	}
}

// broken returns how many connections the test has cut.
func (l *link) broken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cuts / 2 // each was counted on both sides
}

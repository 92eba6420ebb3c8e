package handover

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// expectPanics fails the test if not so many panics are reported until it ends, all of them of connections.
func expectPanics(t *testing.T, want int32) {
	t.Helper()
	var reported atomic.Int32
	before := guard.OnPanic(func(place guard.Place, v any, _ []byte) {
		if place != guard.Connection {
			t.Errorf("%v was reported in %v", v, place)
		}
		reported.Add(1)
	})
	t.Cleanup(func() {
		guard.OnPanic(before)
		if n := reported.Load(); n != want {
			t.Errorf("%d panics were reported, want %d", n, want)
		}
	})
}

// A panickyListener is a listener wrapper whose Accept panics at first.
type panickyListener struct {
	net.Listener

	left int // how often it panics
}

func (l *panickyListener) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		panic("accept")
	}
	return l.Listener.Accept()
}

func TestAListenerBelowThatPanicsIsAskedAgain(t *testing.T) {
	expectPanics(t, 3)
	synctest.Test(t, func(t *testing.T) {
		var a address
		l := Listen(&panickyListener{a.listen(), 3}, Settings{})
		defer l.Close()
		a.dial(t)
		if _, err := l.Accept(); err != nil {
			t.Error(err)
		}
	})
}

// A panickyConn panics in Read when it is told to.
type panickyConn struct {
	net.Conn

	panics *atomic.Bool
}

func (c panickyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.panics.Load() && err == nil {
		panic("read")
	}
	return n, err
}

// TestAConnectionThatPanicsWhileItIsPassedOnIsClosed: it waits for its client's next request in a goroutine of ours.
func TestAConnectionThatPanicsWhileItIsPassedOnIsClosed(t *testing.T) {
	expectPanics(t, 1)
	inBubble(t, func(t *testing.T, a *address, old *server, other *client) {
		near, far := net.Pipe()
		defer near.Close()
		var panics atomic.Bool
		a.newest.conns <- panickyConn{far, &panics}
		c := &client{t, near, bufio.NewReader(near)}
		c.exchange("GET /first HTTP/1.1\nHost: x\n\n", "old: /first ")
		other.exchange("GET /other HTTP/1.1\nHost: x\n\n", "old: /other ")
		successor := a.replace(t, old)
		synctest.Wait()
		panics.Store(true)
		c.send("G")
		c.expectClosed()
		other.exchange("GET /next HTTP/1.1\nHost: x\n\n", "new: /next ")
		if left := len(successor.listenerGroup().waiting.conns); left != 0 {
			t.Errorf("%d connections still wait", left)
		}
	})
}

// listenerGroup returns the only group that there is in a test.
func (*server) listenerGroup() *group {
	groupsMu.Lock()
	defer groupsMu.Unlock()
	for _, g := range groups {
		return g
	}
	return nil
}

// TestAServerWhoseHookPanicsAcceptsAgain: net/http calls the hooks of new connections in the goroutine that accepts.
func TestAServerWhoseHookPanicsAcceptsAgain(t *testing.T) {
	expectPanics(t, 1)
	var panicked atomic.Bool
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			if !panicked.Swap(true) {
				panic("hook")
			}
			return ctx
		},
	}
	defer server.Close()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, want := range []string{"unexpected EOF", ""} {
		near, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		far, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(near, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		GiveBack(server, far, nil, 0)
		_ = near.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got := (&client{t, near, bufio.NewReader(near)}).answer(); got != want {
			t.Errorf("the client got %q, want %q", got, want)
		}
	}
}

// TestASocketThatPanicsKeepsNoOtherOpen: the sockets of several closed listeners close together.
func TestASocketThatPanicsKeepsNoOtherOpen(t *testing.T) {
	expectPanics(t, 1)
	closed := false
	g := &group{lingering: []*Listener{
		{closeSocket: func() error { panic("close") }},
		{closeSocket: func() error { closed = true; return nil }},
	}}
	g.dissolve()
	if !closed {
		t.Error("the second socket is open")
	}
}

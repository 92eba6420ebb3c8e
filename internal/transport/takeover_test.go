package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// stream serves one response of NDJSON over a socket, which write writes to, to a client that takes everything.
func stream(tb testing.TB, detached bool, write func(t *NDJSON)) {
	tb.Helper()
	done := make(chan struct{})
	type connKey struct{}
	server := &http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			t := NewNDJSON(w, r, Bounds{Timeout: time.Second})
			if err := t.Start(); err != nil {
				tb.Error(err)
			}
			if detached && !t.Detach(r, r.Context().Value(connKey{}).(net.Conn), nil) {
				tb.Error("the response is not detached")
			}
			write(t)
			t.End(Complete)
			close(done)
		}),
	}
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", filepath.Join(tb.TempDir(), "s"))
	if err != nil {
		tb.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "unix", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		tb.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	<-done
}

// A deadlineConn knows the deadline of its writes, and fails a test in which one begins with too little time.
type deadlineConn struct {
	net.Conn

	t        *testing.T
	least    time.Duration
	deadline time.Time
	writes   int
}

func (c *deadlineConn) Write(p []byte) (int, error) {
	c.writes++
	if left := time.Until(c.deadline); left < c.least {
		c.t.Errorf("write %d begins with %v left, want %v", c.writes, left, c.least)
	}
	return c.Conn.Write(p)
}

func (c *deadlineConn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetWriteDeadline(t)
}

// idleTimes are how long a reader may get nothing, around the time after which it is cut off when it takes nothing.
func idleTimes() (times []time.Duration) {
	for _, around := range []time.Duration{timeout, timeout / 4, timeout + timeout/4, 2 * timeout} {
		times = append(times, around-1, around, around+1)
	}
	return append(times, 0, 1, time.Hour)
}

func TestAnIdleReaderOnAConnectionThatWasTakenOverIsNotCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := net.Pipe()
		defer far.Close()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		socket := &deadlineConn{Conn: near, t: t, least: timeout}
		c := &connection{Conn: socket}
		for _, idle := range idleTimes() {
			for range 3 {
				time.Sleep(idle)
				c.put([]byte("{}\n"))
				if err := c.flush(timeout); err != nil {
					t.Fatalf("after %v: %v", idle, err)
				}
				if !socket.deadline.IsZero() {
					t.Error("a deadline is left")
				}
			}
		}
		c.end(Complete, timeout)
	})
}

// socketPair returns both sides of a connection whose buffers the kernel keeps small.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if far, err = new(net.Dialer).DialContext(t.Context(), "unix", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if near, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if err := near.(*net.UnixConn).SetWriteBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// What the kernel does not take at once is sent as fast as the client reads. It is cut off when it takes nothing.
func TestASlowReaderOnAConnectionThatWasTakenOver(t *testing.T) {
	const timeout, size = time.Second, 6 * maxPiece
	near, far := socketPair(t)
	socket := &deadlineConn{Conn: near, t: t}
	c := &connection{Conn: socket, eager: newEager(near)}
	began := time.Now()
	go func() {
		for left := size; left > 0; {
			time.Sleep(timeout / 8)
			n, err := io.ReadFull(far, make([]byte, min(left, maxPiece/2)))
			if left -= n; err != nil {
				t.Error(err)
				return
			}
		}
	}()
	c.put(make([]byte, size))
	if err := c.flush(timeout); err != nil {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if took := time.Since(began); took < timeout {
		t.Errorf("it took %v only", took)
	}
	if !socket.deadline.IsZero() {
		t.Error("a deadline is left")
	}
	c.put(make([]byte, size))
	if err := c.flush(timeout); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that takes nothing: %v", err)
	}
	far.Close()
	if err := c.flush(timeout); err != nil {
		t.Errorf("there is nothing to send: %v", err)
	}
	c.put(make([]byte, 1))
	if err := c.flush(timeout); err == nil {
		t.Error("a client that is gone is sent something")
	}
}

// BenchmarkTakenOver is what one message costs that leaves alone: on a connection that was taken over, and through
// net/http. Caddy adds two deadlines to the latter.
func BenchmarkTakenOver(b *testing.B) {
	line := []byte(strings.Repeat("x", 199) + "\n")
	for _, bench := range []struct {
		name     string
		detached bool
	}{{"taken over", true}, {"net/http", false}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			stream(b, bench.detached, func(t *NDJSON) {
				for b.Loop() {
					t.Append(uuid.UUID{}, line)
					if err := t.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// One at most: the race detector makes the pool of buffers lose some.
func TestAMessageOnAConnectionThatWasTakenOverAllocatesLittle(t *testing.T) {
	line := []byte(strings.Repeat("x", 199) + "\n")
	stream(t, true, func(n *NDJSON) {
		if allocations := testing.AllocsPerRun(1000, func() {
			n.Append(uuid.UUID{}, line)
			if err := n.Flush(); err != nil {
				t.Error(err)
			}
		}); allocations > 1 {
			t.Errorf("%v allocations", allocations)
		}
	})
}

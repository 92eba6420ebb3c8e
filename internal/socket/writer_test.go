package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

const timeout = time.Second

// A deadlineConn records its write deadline. It fails the test if a write begins with too little time left.
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
		c.t.Errorf("write %d began with %v left, want %v", c.writes, left, c.least)
	}
	return c.Conn.Write(p)
}

func (c *deadlineConn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetWriteDeadline(t)
}

// idleTimes returns how long a test sends nothing before a write. The times lie around the timeout, and around fractions
// and multiples of it.
func idleTimes() (times []time.Duration) {
	for _, around := range []time.Duration{timeout, timeout / 4, timeout + timeout/4, 2 * timeout} {
		times = append(times, around-1, around, around+1)
	}
	return append(times, 0, 1, time.Hour)
}

func TestIdleSocketIsNotCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := net.Pipe()
		defer far.Close()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		socket := &deadlineConn{Conn: near, t: t, least: timeout}
		w := NewWriter(socket)
		for _, idle := range idleTimes() {
			for range 3 {
				time.Sleep(idle)
				if err := w.Write([]byte("{}\n"), timeout); err != nil {
					t.Fatalf("after %v: %v", idle, err)
				}
				if !socket.deadline.IsZero() {
					t.Error("a deadline is left")
				}
			}
		}
	})
}

// socketPair returns both sides of a connection with small buffers in the kernel.
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

// What the kernel does not take at once is sent as fast as the client reads. The client is cut off when it takes
// nothing.
func TestSlowClientIsNotCutOff(t *testing.T) {
	const timeout, size = time.Second, 6 * maxPiece
	near, far := socketPair(t)
	socket := &deadlineConn{Conn: near, t: t}
	w := Writer{conn: socket, nonblocking: newNonblocking(near)}
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
	if err := w.Write(make([]byte, size), timeout); err != nil {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if took := time.Since(began); took < timeout {
		t.Errorf("the write took only %v, want at least %v", took, timeout)
	}
	if !socket.deadline.IsZero() {
		t.Error("a deadline is left")
	}
	if err := w.Write(make([]byte, size), timeout); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client takes nothing, and the error is %v", err)
	}
	far.Close()
	if err := w.Write(nil, timeout); err != nil {
		t.Errorf("there was nothing to write, and the error is %v", err)
	}
	if err := w.Write(make([]byte, 1), timeout); err == nil {
		t.Error("a write to a client that is gone did not fail")
	}
}

// The kernel accepts more only when much of its buffer is free. A slow client needs longer than the timeout for that.
func TestClientThatTakesLittleIsNotCutOff(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux reports what a client takes")
	}
	const timeout = 300 * time.Millisecond
	near, far := socketPair(t)
	if err := near.(*net.UnixConn).SetWriteBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	filled := fill(t, near)
	ended := make(chan struct{})
	t.Cleanup(func() { <-ended })
	go func() {
		defer close(ended)
		for {
			time.Sleep(timeout / 5)
			if _, err := io.CopyN(io.Discard, far, int64(filled/40)); err != nil {
				return
			}
		}
	}()
	w := NewWriter(near)
	began := time.Now()
	if err := w.Write(make([]byte, 1), timeout); err != nil || time.Since(began) < timeout {
		t.Errorf("the write ended after %v, want at least %v; the error is %v", time.Since(began), timeout, err)
	}
	far.Close()
}

// fill writes to a socket until the kernel takes no more.
func fill(t *testing.T, conn net.Conn) (filled int) {
	t.Helper()
	e := newNonblocking(conn)
	for {
		n, err := e.Write(make([]byte, maxPiece))
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return filled
		}
		filled += n
	}
}

func TestAwaitRoom(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux reports whether there is room")
	}
	const timeout = 300 * time.Millisecond
	near, far := socketPair(t)
	if !HasRoom(near) || !AwaitRoom(near, 0, nil) {
		t.Error("an empty socket has no room")
	}
	filled := fill(t, near)
	if HasRoom(near) {
		t.Error("a full socket has room")
	}
	began, exit := time.Now(), make(chan struct{})
	if AwaitRoom(near, timeout, exit) || time.Since(began) < timeout {
		t.Errorf("AwaitRoom found room, or returned after only %v", time.Since(began))
	}
	close(exit)
	began = time.Now()
	if AwaitRoom(near, time.Minute, exit) || time.Since(began) > MaxExitWrite+5*time.Second {
		t.Errorf("AwaitRoom found room, or held up the exit for %v", time.Since(began))
	}
	go func() { _, _ = io.CopyN(io.Discard, far, int64(filled)) }()
	if !AwaitRoom(near, time.Minute, nil) {
		t.Error("there is no room after the client has read everything")
	}
	near.Close()
	if !AwaitRoom(near, time.Minute, nil) {
		t.Error("AwaitRoom waited for a closed connection")
	}
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	if !HasRoom(pipe) || !AwaitRoom(pipe, time.Minute, nil) {
		t.Error("AwaitRoom waited for a connection that is not a socket")
	}
}

// Caddy's timeouts handler sets a deadline when it returns, even if the connection was hijacked.
func TestDeadlineOfOthersIsIgnored(t *testing.T) {
	near, far := socketPair(t)
	go func() { _, _ = io.Copy(io.Discard, far) }()
	w := NewWriter(near)
	if err := near.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Write([]byte("x"), time.Minute); err != nil {
			t.Error(err)
		}
	}
}

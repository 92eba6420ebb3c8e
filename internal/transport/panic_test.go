package transport

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// reportedPanics returns a channel that gets the place of each panic until the test ends.
func reportedPanics(t *testing.T) chan guard.Place {
	t.Helper()
	places := make(chan guard.Place, 100)
	before := guard.OnPanic(func(place guard.Place, _ any, _ []byte) { places <- place })
	t.Cleanup(func() { guard.OnPanic(before) })
	return places
}

// expectPanic waits for a report.
func expectPanic(t *testing.T, places <-chan guard.Place, want guard.Place) {
	t.Helper()
	select {
	case place := <-places:
		if place != want {
			t.Errorf("a panic was reported in %v, want %v", place, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no panic was reported")
	}
}

// A panickyConn panics in the calls that it is told to.
type panickyConn struct {
	net.Conn

	inRead, inWrite, inClose atomic.Bool
}

func (c *panickyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.inRead.Load() {
		panic("read")
	}
	return n, err
}

func (c *panickyConn) Write(p []byte) (int, error) {
	if c.inWrite.Load() {
		panic("write")
	}
	return c.Conn.Write(p)
}

func (c *panickyConn) Close() error {
	_ = c.Conn.Close()
	if c.inClose.Load() {
		panic("close")
	}
	return nil
}

// NetConn returns the connection inside.
func (c *panickyConn) NetConn() net.Conn { return c.Conn }

// panickyWebSocket returns a WebSocket that was started, its client, and its connection.
func panickyWebSocket(t *testing.T) (*WebSocket, *client, *panickyConn) {
	t.Helper()
	c := newClient(t)
	conn := &panickyConn{Conn: c.writer.Conn}
	c.writer.Conn = conn
	r := request()
	r.Header = goodHandshake.Clone()
	s := NewWebSocket(c.writer, r, WebSocketOptions{Timeout: timeout, Acknowledge: func(string) {}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s, c, conn
}

// TestAWebSocketThatPanicsEndsAlone makes each goroutine of a WebSocket panic. The read must notice, the client's connection
// must be closed, and End must return.
func TestAWebSocketThatPanicsEndsAlone(t *testing.T) {
	for name, provoke := range map[string]func(t *testing.T, s *WebSocket, c *client, conn *panickyConn){
		"an acknowledgement": func(t *testing.T, s *WebSocket, c *client, _ *panickyConn) {
			s.options.Acknowledge = func(string) { panic("ack") }
			c.writeFrame(t, opText, `{"ack":"x"}`)
		},
		"a frame": func(t *testing.T, s *WebSocket, c *client, _ *panickyConn) {
			s.parser.handle = nil
			c.writeFrame(t, opText, `{"ack":"x"}`)
		},
		"a read": func(t *testing.T, _ *WebSocket, c *client, conn *panickyConn) {
			conn.inRead.Store(true)
			c.writeFrame(t, opText, `{"ack":"x"}`)
		},
		"the answer to a ping": func(t *testing.T, _ *WebSocket, c *client, conn *panickyConn) {
			conn.inWrite.Store(true)
			c.writeFrame(t, opPing, "x")
		},
		"a ping": func(_ *testing.T, s *WebSocket, _ *client, conn *panickyConn) {
			conn.inWrite.Store(true)
			_ = s.Heartbeat()
		},
		"the watch of a ping": func(_ *testing.T, s *WebSocket, c *client, conn *panickyConn) {
			conn.inClose.Store(true) // when the client does not answer
			_ = s.Heartbeat()
			go func() { _, _ = io.Copy(io.Discard, c) }()
			time.Sleep(2 * timeout)
		},
		"the end after a violation": func(t *testing.T, _ *WebSocket, c *client, conn *panickyConn) {
			conn.inClose.Store(true)
			go func() { _, _ = io.Copy(io.Discard, c) }()
			c.writeFrame(t, 3, "an opcode that does not exist")
			time.Sleep(2 * maxFailing)
		},
	} {
		t.Run(name, func(t *testing.T) {
			places := reportedPanics(t)
			synctest.Test(t, func(t *testing.T) {
				s, c, conn := panickyWebSocket(t)
				provoke(t, s, c, conn)
				synctest.Wait()
				select {
				case <-s.Gone():
				default:
					t.Error("the read does not notice")
				}
				conn.inClose.Store(false)
				s.End(Broken)
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Errorf("the client's connection is not closed: %v", err)
				}
			})
			expectPanic(t, places, guard.WebSocket)
		})
	}
}

// TestAFlushThatPanicsLeavesNoLock: the panic goes on to the caller of Flush, who then calls End.
func TestAFlushThatPanicsLeavesNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, conn := panickyWebSocket(t)
		conn.inWrite.Store(true)
		s.Append(uuid.UUID{}, []byte("1\n"))
		func() {
			defer func() {
				if fault := recover(); fault != "write" {
					t.Errorf("recovered %v, want the panic of the write", fault)
				}
			}()
			_ = s.Flush()
		}()
		s.Append(uuid.UUID{}, []byte("2\n"))
		if err := s.Flush(); err == nil {
			t.Error("the next flush succeeded")
		}
		s.End(Complete)
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("the client's connection is not closed: %v", err)
		}
	})
}

// TestAWatchThatPanicsTakesTheClientForGone makes both ways of watching a client panic.
func TestAWatchThatPanicsTakesTheClientForGone(t *testing.T) {
	for name, raw := range map[string]bool{"the system watches": true, "a goroutine watches": false} {
		t.Run(name, func(t *testing.T) {
			places := reportedPanics(t)
			near, far := socketPair(t)
			conn := &panickyConn{Conn: near}
			conn.inRead.Store(true)
			var w clientWatch
			called := make(chan struct{})
			w.init(conn, func() { close(called) })
			w.raw = nil
			if raw {
				w.Readable() // as the system's watch calls it: without a socket, it panics
			} else {
				w.start()
				if _, err := io.WriteString(far, "x"); err != nil {
					t.Fatal(err)
				}
			}
			within(t, w.gone)
			within(t, called)
			expectPanic(t, places, guard.Connection)
			if _, gone := w.end(); !gone {
				t.Error("the client is not gone")
			}
		})
	}
}

// TestACloseThatPanicsAtItsTimeIsRecovered: HTTP/2 connections are closed by a timer, or by a goroutine that waits.
func TestACloseThatPanicsAtItsTimeIsRecovered(t *testing.T) {
	t.Run("a timer", func(t *testing.T) {
		places := reportedPanics(t)
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t)
			conn := &panickyConn{Conn: c.writer}
			conn.inClose.Store(true)
			r := newResponse(c.writer, requestOverHTTP2(), Bounds{Timeout: timeout, Conn: conn})
			if err := r.arm(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * timeout)
		})
		expectPanic(t, places, guard.Connection)
	})
	t.Run("a goroutine", func(t *testing.T) {
		places := reportedPanics(t)
		near, _ := socketPair(t)
		_ = near.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		for filled := false; !filled; {
			_, err := near.Write(make([]byte, 64<<10))
			filled = err != nil
		}
		conn := &panickyConn{Conn: near}
		if socket.HasRoom(conn) {
			t.Skip("the system does not say when a connection is full")
		}
		conn.inClose.Store(true)
		r := newResponse(newClient(t).writer, requestOverHTTP2(), Bounds{Timeout: time.Millisecond, Conn: conn})
		r.End(Broken)
		expectPanic(t, places, guard.Connection)
	})
}

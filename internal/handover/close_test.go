package handover

import (
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// If nobody calls Changed, nothing is known of what the server does with a connection.
func TestConnectionOfUnknownStateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a address
		old := a.serve(t, "old")
		old.ConnState = nil
		c := a.dial(t)
		c.exchange(get("a"), "old: /a ")
		successor := a.replace(t, old)
		c.expectClosedAtOnce()
		if successor.accepted > 0 {
			t.Error("the connection was passed on")
		}
	})
}

func TestConnectionsAreClosedWithoutSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *address, old *server, c *client) {
		c.exchange(get("a"), "old: /a ")
		old.stop()
		c.expectClosed()
		if len(groups) != 0 {
			t.Error("the listener's group is still there")
		}
	})
}

// A connection that waits between two servers is closed with the last of them, or when it was idle for too long.
func TestWaitingConnectionIsClosed(t *testing.T) {
	for name, stops := range map[string]bool{"the last server stops": true, "it is idle": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.exchange(get("a"), "old: /a ")
				successor := a.replace(t, old)
				began := time.Now()
				if stops {
					successor.stop()
				}
				c.expectClosed()
				if waited := time.Since(began); waited > time.Minute || stops && waited > 0 {
					t.Errorf("the connection was closed after %s", waited)
				}
				if !stops {
					successor.stop()
				}
			})
		})
	}
}

// An ownErrorListener reports with an error of its own that it was closed, as Caddy's listeners do on some systems.
type ownErrorListener struct {
	*memoryListener

	failed int // calls of Accept
}

func (l *ownErrorListener) Accept() (net.Conn, error) {
	conn, err := l.memoryListener.Accept()
	if err == nil {
		return conn, nil
	}
	if l.failed++; l.failed > 10 {
		runtime.Goexit() // otherwise the bubble would not end
	}
	return nil, errors.New("closed, in a way")
}

func TestNothingIsAcceptedAfterTheSocketIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a address
		inner := &ownErrorListener{memoryListener: a.listen()}
		if err := Listen(inner, Settings{}).Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if inner.failed > 1 {
			t.Errorf("Accept failed %d times, want once at most", inner.failed)
		}
	})
}

// HTTP/2 servers warn their clients in time, and keep their streams.
func TestHTTP2IsLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(io.Discard, c.from)
		}()
		c.send("PRI * HTTP/2.0\n\nSM\n\n")
		if _, err := c.conn.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil { // SETTINGS
			t.Fatal(err)
		}
		synctest.Wait()
		successor := a.replace(t, old)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the connection is still open")
		}
		if successor.accepted > 0 {
			t.Error("the connection was passed on")
		}
	})
}

// net/http takes a connection for idle a moment before it calls ConnState, and may close it in between.
func TestConnectionIsPassedOnIfItIsClosedJustBeforeItIsKnownToBeIdle(t *testing.T) {
	for name, request := range map[string]string{"without a body": get("a"), "with a body": post("a", ""), "in chunks": chunked("a")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a address
				old := a.serve(t, "old")
				resume := make(chan struct{})
				old.ConnState = func(conn net.Conn, state http.ConnState) {
					if state == http.StateIdle {
						<-resume
					}
					old.changed(conn, state)
				}
				c := a.dial(t)
				c.send(request)
				c.expectPrefix("old: /a ")
				synctest.Wait()
				successor := a.replace(t, old)
				close(resume)
				c.exchange(get("b"), "new: /b ")
				successor.stop()
			})
		})
	}
}

// TestServedConnectionIsClosedWithItsServer: a server can be closed without waiting for its handlers.
func TestServedConnectionIsClosedWithItsServer(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		c.send(get("slow"))
		synctest.Wait()
		successor := a.serve(t, "new")
		began := time.Now()
		old.Close()
		c.expectClosed()
		if waited := time.Since(began); waited > maxUntold {
			t.Errorf("the connection was closed after %s", waited)
		}
		close(old.ends)
		successor.expectServed()
		successor.stop()
	})
}

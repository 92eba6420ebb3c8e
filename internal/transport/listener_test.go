package transport

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A farClient is the client of a WebSocket over TCP or TLS.
type farClient struct {
	*client

	socket *WebSocket
	acks   chan string
	gone   chan struct{} // closed when a detached WebSocket is told that the client has gone
}

// overNetworks runs a test with WebSockets over TCP, which the system watches where it can, and over TLS.
func overNetworks(t *testing.T, test func(t *testing.T, connect func(early string) *farClient)) {
	t.Helper()
	for _, network := range []string{"TCP", "TLS"} {
		t.Run(network, func(t *testing.T) {
			clients := make(chan *farClient, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := &farClient{acks: make(chan string, 1000), gone: make(chan struct{})}
				c.socket = NewWebSocket(w, r, WebSocketOptions{Timeout: timeout, Acknowledge: func(id string) { c.acks <- id }})
				if err := c.socket.Start(); err != nil {
					t.Error(err)
				}
				c.socket.Detach(r, nil, func() { close(c.gone) })
				clients <- c
			}))
			if network == "TLS" {
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			test(t, func(early string) *farClient {
				t.Helper()
				dial := new(net.Dialer).DialContext
				if network == "TLS" {
					dial = (&tls.Dialer{Config: server.Client().Transport.(*http.Transport).TLSClientConfig}).DialContext
				}
				conn, err := dial(t.Context(), "tcp", server.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
					t.Fatal(err)
				}
				r := request()
				r.Header = goodHandshake.Clone()
				var text bytes.Buffer
				if err := r.Write(&text); err != nil {
					t.Fatal(err)
				}
				text.WriteString(early)
				if _, err := conn.Write(text.Bytes()); err != nil {
					t.Fatal(err)
				}
				c := <-clients
				c.client = &client{Conn: conn}
				c.skipHeader(t)
				t.Cleanup(func() { c.socket.End(Broken) })
				return c
			})
		})
	}
}

// skipHeader reads a response's header.
func (c *client) skipHeader(t *testing.T) {
	t.Helper()
	for end, b := 0, make([]byte, 1); end < 4; {
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		if b[0] == "\r\n\r\n"[end] {
			end++
		} else {
			end = 0
		}
	}
}

// send sends bytes.
func (c *client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// isClosed reads a close frame.
func (c *client) isClosed(t *testing.T, code uint16) {
	t.Helper()
	if opcode, text := c.frame(t); opcode != opClose || binary.BigEndian.Uint16([]byte(text+"\x00\x00")) != code {
		t.Errorf("frame %d %q, want an end with %d", opcode, text, code)
	}
}

// ends reads the end of the connection, which must be a clean one.
func (c *client) ends(t *testing.T) {
	t.Helper()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v at the end", rest, err)
	}
}

func ack(id string) string { return sent(final|opText, fmt.Sprintf(`{"ack":%q}`, id)) }

// acknowledged waits for acknowledgements.
func (c *farClient) acknowledged(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		select {
		case got := <-c.acks:
			if got != id {
				t.Fatalf("ack %q, want %q", got, id)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("ack %q does not come", id)
		}
	}
}

func TestWhatIsSentWithTheHandshakeIsHeard(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect(ack("1") + ack("2")[:9])
		c.acknowledged(t, "1")
		c.send(t, ack("2")[9:]+ack("3"))
		c.acknowledged(t, "2", "3")
		connect(ack("1")+sent(final|opClose, "\x03\xe8")).isClosed(t, 1000)
	})
}

func TestAClientMayStallInsideAFrame(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect("")
		for i := range len(ack("x")) {
			id := string(rune('a' + i))
			c.send(t, sent(final|opPing, id)+ack(id)[:i])
			if opcode, text := c.frame(t); opcode != opPong || text != id {
				t.Fatalf("frame %d %q", opcode, text)
			}
			c.send(t, ack(id)[i:])
			c.acknowledged(t, id)
		}
	})
}

// A client that has sent more than was read must still get to know why the connection ends.
func TestAClientIsToldWhatItHasViolated(t *testing.T) {
	for name, test := range map[string]struct {
		sent string
		code uint16
	}{
		"too large a message": {sent(final|opText, strings.Repeat("x", 300<<10)), 1009},
		"no mask":             {"\x81\x05hello" + strings.Repeat("x", 300<<10), 1002},
		"no UTF-8":            {sent(final|opText, "\xff") + strings.Repeat(ack("x"), 1000), 1007},
	} {
		t.Run(name, func(t *testing.T) {
			overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
				c := connect("")
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					<-c.gone
					c.socket.End(Broken)
				}()
				c.send(t, test.sent)
				c.isClosed(t, test.code)
				c.ends(t)
				c.Close()
				within(t, ended)
				if len(c.acks) > 0 {
					t.Error("something was heard after the fault")
				}
			})
		})
	}
}

func TestAWebSocketNoticesThatItsClientGoes(t *testing.T) {
	for name, goes := range map[string]func(*testing.T, *farClient){
		"it closes":               func(_ *testing.T, c *farClient) { c.Close() },
		"it closes inside a text": func(t *testing.T, c *farClient) { c.send(t, ack("1")[:9]); c.Close() },
		"it ends its writes": func(_ *testing.T, c *farClient) {
			_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		},
		"it says so": func(t *testing.T, c *farClient) {
			c.send(t, sent(final|opClose, "\x0f\xa0bye"))
			c.isClosed(t, 4000)
		},
		"it says so without a code": func(t *testing.T, c *farClient) {
			c.send(t, sent(final|opClose, ""))
			if opcode, text := c.frame(t); opcode != opClose || text != "" {
				t.Errorf("frame %d %q", opcode, text)
			}
		},
		"it says nothing to understand": func(t *testing.T, c *farClient) {
			c.send(t, sent(final|opText, "hello")+sent(final|opText, "hello"))
			c.isClosed(t, 4400)
			c.send(t, sent(final|opClose, "\x11\x30"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
				c := connect("")
				goes(t, c)
				within(t, c.gone)
				within(t, c.socket.Gone())
				began := time.Now()
				c.socket.End(Broken)
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("the end takes %v", took)
				}
				c.socket.Append(uuid.UUID{}, []byte("{}\n"))
				if c.socket.Flush() == nil {
					t.Error("a message goes nowhere, and nobody knows")
				}
			})
		})
	}
}

func TestBothSidesAgreeOnTheEnd(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect("")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.socket.End(Deleted)
		}()
		c.isClosed(t, 4404)
		c.send(t, ack("1")+sent(final|opPing, "no answer is due")+sent(final|opClose, "\x11\x34"))
		c.ends(t)
		within(t, ended)
		within(t, c.gone)
		c.acknowledged(t, "1")
	})
}

func TestAClientThatDoesNotAnswerAPingIsHungUpOn(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect("")
		c.socket.out.timeout = time.Second
		for _, pong := range []bool{true, false} {
			if err := c.socket.Heartbeat(); err != nil {
				t.Fatal(err)
			}
			opcode, text := c.frame(t)
			if opcode != opPing {
				t.Fatalf("frame %d", opcode)
			}
			if !pong {
				break
			}
			c.send(t, sent(final|opPong, "another")+sent(final|opPong, text))
			for c.socket.ping.Load() != nil {
				runtime.Gosched()
			}
		}
		within(t, c.gone)
		c.ends(t)
	})
}

// A refusedSocket is one that the system does not watch.
type refusedSocket struct {
	net.Conn

	raw syscall.RawConn
}

func (s refusedSocket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

func TestASocketThatCannotBeWatchedIsReadAllTheSame(t *testing.T) {
	near, far := socketPair(t)
	heard, over := make(chan string, 10), make(chan struct{})
	l := listener{conn: near, hear: func(p []byte) bool { heard <- string(p); return true }, over: func() { close(over) }}
	l.listen(refusedSocket{near, fileConn(t)}, []byte("early"))
	for _, text := range []string{"early", "a", "b"} {
		if got := <-heard; got != text {
			t.Errorf("%q, want %q", got, text)
		}
		next := map[string]string{"early": "a", "a": "b"}[text]
		if _, err := io.WriteString(far, next); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	near.Close()
	within(t, over)
}

// goroutines returns how many goroutines transports have.
func goroutines() int {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "internal/transport.(*") && !strings.Contains(stack, "_test.go") {
			n++
		}
	}
	return n
}

func noGoroutines(t *testing.T, when string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for goroutines() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines %s", goroutines(), when)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAnIdleWebSocketHasNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sockets cannot be watched here")
	}
	noGoroutines(t, "before")
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		if strings.HasSuffix(t.Name(), "TLS") {
			c := connect("")
			for deadline := time.Now().Add(10 * time.Second); goroutines() == 0; { // it begins after the reply
				if time.Now().After(deadline) {
					t.Fatal("a goroutine is not found")
				}
				time.Sleep(time.Millisecond)
			}
			c.Close()
			within(t, c.gone)
			return
		}
		var clients []*farClient
		for range 20 {
			clients = append(clients, connect(""))
		}
		noGoroutines(t, "after the handshake")
		for _, c := range clients {
			c.send(t, ack("1")+ack("2")[:10])
			c.acknowledged(t, "1")
		}
		noGoroutines(t, "inside of a frame")
		for range 3 {
			for _, c := range clients {
				c.send(t, ack("2")[10:]+ack("2")[:10])
				c.acknowledged(t, "2")
			}
		}
		noGoroutines(t, "after many acknowledgements")
		for _, c := range clients {
			if err := c.socket.Heartbeat(); err != nil {
				t.Fatal(err)
			}
			_, text := c.frame(t)
			c.send(t, ack("2")[10:]+sent(final|opPong, text))
		}
		noGoroutines(t, "after an answered ping")
		for _, c := range clients {
			c.socket.Append(uuid.UUID{}, []byte("{}\n"))
			if err := c.socket.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		noGoroutines(t, "after a message")
	})
}

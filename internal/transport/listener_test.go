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
	gone   chan struct{} // closed when the detached WebSocket reports that the client has gone
}

// overNetworks runs a test with WebSockets over TCP and over TLS. The system watches TCP sockets where it can. connect
// sends early together with the handshake.
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

// skipHeader reads the header of a response.
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

// send sends text as it is.
func (c *client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// expectClose reads a close frame with a code.
func (c *client) expectClose(t *testing.T, code uint16) {
	t.Helper()
	if opcode, text := c.readFrame(t); opcode != opClose || binary.BigEndian.Uint16([]byte(text+"\x00\x00")) != code {
		t.Errorf("got frame %d %q, want a close frame with code %d", opcode, text, code)
	}
}

// expectEnd reads the end of the connection. The end must be clean, with nothing before it.
func (c *client) expectEnd(t *testing.T) {
	t.Helper()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v at the end of the connection", rest, err)
	}
}

// ack returns the frame of an acknowledgement.
func ack(id string) string { return sent(final|opText, fmt.Sprintf(`{"ack":%q}`, id)) }

// expectAcks waits for the acknowledgements of these IDs, in order.
func (c *farClient) expectAcks(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		select {
		case got := <-c.acks:
			if got != id {
				t.Fatalf("got an acknowledgement of %q, want one of %q", got, id)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the acknowledgement of %q did not come", id)
		}
	}
}

func TestFramesSentWithTheHandshakeAreHandled(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect(ack("1") + ack("2")[:9])
		c.expectAcks(t, "1")
		c.send(t, ack("2")[9:]+ack("3"))
		c.expectAcks(t, "2", "3")
		connect(ack("1")+sent(final|opClose, "\x03\xe8")).expectClose(t, 1000)
	})
}

func TestClientMayStallInsideAFrame(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect("")
		for i := range len(ack("x")) {
			id := string(rune('a' + i))
			c.send(t, sent(final|opPing, id)+ack(id)[:i])
			c.expectFrame(t, opPong, id)
			c.send(t, ack(id)[i:])
			c.expectAcks(t, id)
		}
	})
}

// Even if a client has sent more than the server has read, it can read why the connection ends.
func TestClientLearnsWhatItHasViolated(t *testing.T) {
	for name, test := range map[string]struct {
		sent string
		code uint16
	}{
		"a message that is too large": {sent(final|opText, strings.Repeat("x", 300<<10)), 1009},
		"no mask":                     {"\x81\x05hello" + strings.Repeat("x", 300<<10), 1002},
		"no UTF-8":                    {sent(final|opText, "\xff") + strings.Repeat(ack("x"), 1000), 1007},
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
				c.expectClose(t, test.code)
				c.expectEnd(t)
				c.Close()
				within(t, ended)
				if len(c.acks) > 0 {
					t.Error("something was handled after the violation")
				}
			})
		})
	}
}

func TestWebSocketNoticesThatItsClientGoes(t *testing.T) {
	for name, goes := range map[string]func(*testing.T, *farClient){
		"it closes":               func(_ *testing.T, c *farClient) { c.Close() },
		"it closes inside a text": func(t *testing.T, c *farClient) { c.send(t, ack("1")[:9]); c.Close() },
		"it ends its writes": func(_ *testing.T, c *farClient) {
			_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		},
		"it sends a close frame": func(t *testing.T, c *farClient) {
			c.send(t, sent(final|opClose, "\x0f\xa0bye"))
			c.expectClose(t, 4000)
		},
		"it sends a close frame without a code": func(t *testing.T, c *farClient) {
			c.send(t, sent(final|opClose, ""))
			c.expectFrame(t, opClose, "")
		},
		"it sends messages that are not acknowledgements": func(t *testing.T, c *farClient) {
			c.send(t, sent(final|opText, "hello")+sent(final|opText, "hello"))
			c.expectClose(t, 4400)
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
					t.Errorf("End took %v", took)
				}
				c.socket.Append(uuid.UUID{}, []byte("{}\n"))
				if c.socket.Flush() == nil {
					t.Error("Flush lost a message and did not fail")
				}
			})
		})
	}
}

func TestBothSidesAgreeToTheEnd(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect("")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.socket.End(Deleted)
		}()
		c.expectClose(t, 4404)
		c.send(t, ack("1")+sent(final|opPing, "no answer is due")+sent(final|opClose, "\x11\x34"))
		c.expectEnd(t)
		within(t, ended)
		within(t, c.gone)
		c.expectAcks(t, "1")
	})
}

func TestClientThatDoesNotAnswerAPingIsCutOff(t *testing.T) {
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		c := connect("")
		c.socket.out.timeout = time.Second
		for _, pong := range []bool{true, false} {
			if err := c.socket.Heartbeat(); err != nil {
				t.Fatal(err)
			}
			ping := c.readPing(t)
			if !pong {
				break
			}
			c.send(t, sent(final|opPong, "another")+sent(final|opPong, ping))
			for c.socket.ping.Load() != nil {
				runtime.Gosched()
			}
		}
		within(t, c.gone)
		c.expectEnd(t)
	})
}

// A refusedSocket is a socket that the system refuses to watch.
type refusedSocket struct {
	net.Conn

	raw syscall.RawConn
}

func (s refusedSocket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

func TestSocketThatCannotBeWatchedIsReadAllTheSame(t *testing.T) {
	near, far := socketPair(t)
	received, over := make(chan string, 10), make(chan struct{})
	l := listener{conn: near, receive: func(p []byte) bool { received <- string(p); return true }, onEnd: func() { close(over) }}
	l.listen(refusedSocket{near, fileConn(t)}, []byte("early"))
	for _, text := range []string{"early", "a", "b"} {
		if got := <-received; got != text {
			t.Errorf("received %q, want %q", got, text)
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

// goroutines returns how many goroutines the transports have.
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

// expectNoGoroutines waits until the transports have no goroutine.
func expectNoGoroutines(t *testing.T, when string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for goroutines() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("there are %d goroutines %s", goroutines(), when)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestIdleWebSocketHasNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system cannot watch sockets")
	}
	expectNoGoroutines(t, "at the beginning")
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		if strings.HasSuffix(t.Name(), "TLS") {
			c := connect("")
			for deadline := time.Now().Add(10 * time.Second); goroutines() == 0; { // the goroutine begins after the reply
				if time.Now().After(deadline) {
					t.Fatal("a WebSocket over TLS has no goroutine")
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
		expectNoGoroutines(t, "after the handshake")
		for _, c := range clients {
			c.send(t, ack("1")+ack("2")[:10])
			c.expectAcks(t, "1")
		}
		expectNoGoroutines(t, "inside a frame")
		for range 3 {
			for _, c := range clients {
				c.send(t, ack("2")[10:]+ack("2")[:10])
				c.expectAcks(t, "2")
			}
		}
		expectNoGoroutines(t, "after many acknowledgements")
		for _, c := range clients {
			if err := c.socket.Heartbeat(); err != nil {
				t.Fatal(err)
			}
			_, text := c.readFrame(t)
			c.send(t, ack("2")[10:]+sent(final|opPong, text))
		}
		expectNoGoroutines(t, "after an answered ping")
		for _, c := range clients {
			c.socket.Append(uuid.UUID{}, []byte("{}\n"))
			if err := c.socket.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		expectNoGoroutines(t, "after a message")
	})
}

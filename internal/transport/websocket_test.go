package transport

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// Hijack implements [http.Hijacker].
func (w *pipeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w, bufio.NewReadWriter(bufio.NewReader(w), bufio.NewWriter(w)), nil
}

var goodHandshake = http.Header{
	"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Version": {"13"},
	"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
}

// testWebSocket runs a test in a bubble, with a WebSocket that was started and its client.
func testWebSocket(t *testing.T, test func(t *testing.T, s *WebSocket, c *client, acks <-chan string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, acks := newClient(t), make(chan string, 10)
		r := request()
		r.Header = goodHandshake.Clone()
		s := NewWebSocket(c.writer, r, WebSocketOptions{Timeout: timeout, Acknowledge: func(id string) { acks <- id }})
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		test(t, s, c, acks)
		c.Close()
		<-s.Gone()
	})
}

// Opcodes (RFC 6455, 5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// readFrame reads a frame.
func (c *client) readFrame(t *testing.T) (opcode byte, payload string) {
	t.Helper()
	opcode, payload, err := c.tryReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	return opcode, payload
}

// readPing reads a ping and returns its payload.
func (c *client) readPing(t *testing.T) (payload string) {
	t.Helper()
	opcode, payload := c.readFrame(t)
	if opcode != opPing {
		t.Fatalf("got frame %d %q, want a ping", opcode, payload)
	}
	return payload
}

// expectFrame reads a frame, and checks it.
func (c *client) expectFrame(t *testing.T, opcode byte, payload string) {
	t.Helper()
	if gotOpcode, got := c.readFrame(t); gotOpcode != opcode || got != payload {
		t.Errorf("got frame %d %q, want %d %q", gotOpcode, got, opcode, payload)
	}
}

// tryReadFrame is readFrame for goroutines other than the test's.
func (c *client) tryReadFrame() (opcode byte, payload string, err error) {
	var header [2]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return 0, "", err
	}
	size := uint64(header[1])
	switch size {
	case 126:
		var n uint16
		_ = binary.Read(c, binary.BigEndian, &n)
		size = uint64(n)
	case 127:
		_ = binary.Read(c, binary.BigEndian, &size)
	}
	text := make([]byte, size)
	_, err = io.ReadFull(c, text)
	return header[0] & 15, string(text), err
}

// writeFrame sends a frame, with a mask of zeros.
func (c *client) writeFrame(t *testing.T, opcode byte, payload string) {
	t.Helper()
	frame := append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
}

func TestWebSocketSendsEventsInOneWrite(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		c.writer.writes = nil
		for i := range 3 {
			s.Append(uuid.UUID{}, fmt.Appendf(nil, "{%d}\n", i))
		}
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		for i := range 3 {
			c.expectFrame(t, opText, fmt.Sprintf("{%d}", i))
		}
		if err := <-flushed; err != nil || len(c.writer.writes) != 1 {
			t.Errorf("got %d writes, %v, want 1", len(c.writer.writes), err)
		}
		if !c.writer.deadline.IsZero() {
			t.Error("a deadline is left")
		}
	})
}

func TestWebSocketPassesAcknowledgementsOn(t *testing.T) {
	testWebSocket(t, func(t *testing.T, _ *WebSocket, c *client, acks <-chan string) {
		c.writeFrame(t, opText, `{"ack":"1"}`)
		c.writeFrame(t, opText, ` { "ack" : "2", "more": [] } `)
		for _, want := range []string{"1", "2"} {
			if got := <-acks; got != want {
				t.Errorf("got an acknowledgement of %q, want one of %q", got, want)
			}
		}
		c.writeFrame(t, opPing, "hello")
		c.expectFrame(t, opPong, "hello")
	})
}

func TestWebSocketPings(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		for range 3 { // the client answers
			if err := s.Heartbeat(); err != nil {
				t.Fatal(err)
			}
			c.writeFrame(t, opPong, c.readPing(t))
			synctest.Wait()
		}
		start := time.Now()
		for range 3 { // the client does not answer; only one ping is sent
			if err := s.Heartbeat(); err != nil {
				t.Fatal(err)
			}
		}
		c.readPing(t)
		<-s.Gone()
		if took := time.Since(start); took < timeout || took > timeout+timeout/4 {
			t.Errorf("the client was given up after %v, want %v to %v", took, timeout, timeout+timeout/4)
		}
	})
}

func TestWebSocketWriteTimeout(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, _ *client, _ <-chan string) {
		s.Append(uuid.UUID{}, line(1000))
		start := time.Now()
		if err := s.Flush(); err == nil || time.Since(start) != timeout {
			t.Errorf("Flush returned %v after %v, want an error after %v", err, time.Since(start), timeout)
		}
		s.End(Broken)
	})
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		const size = 1 << 20
		s.Append(uuid.UUID{}, line(size))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		for piece, total := make([]byte, maxPiece/2), 0; total < size; {
			time.Sleep(timeout / 4)
			n, err := c.Read(piece)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
		go func() { _, _ = io.Copy(io.Discard, c) }()
		if err := <-flushed; err != nil {
			t.Errorf("the client is slow, and the error is %v", err)
		}
	})
}

func TestWebSocketEnds(t *testing.T) {
	for why, code := range map[Reason]uint16{Complete: 1000, GoingAway: 1001, Deleted: 4404, TakenOver: 4409} {
		testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
			ended := make(chan time.Time, 1)
			start := time.Now()
			go func() {
				s.End(why)
				ended <- time.Now()
			}()
			opcode, text := c.readFrame(t)
			if opcode != opClose || binary.BigEndian.Uint16([]byte(text)) != code || len(text) <= 2 {
				t.Errorf("%v: got frame %d %q, want a close frame with code %d and a reason", why, opcode, text, code)
			}
			c.writeFrame(t, opClose, text[:2])
			if took := (<-ended).Sub(start); took > 0 {
				t.Errorf("%v: End took %v, although the client agreed at once", why, took)
			}
		})
	}
	for _, message := range []string{"hello", `{}`, `{"ack":1}`, `[]`, `{"ack":null}`} {
		t.Run(message, func(t *testing.T) {
			testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
				c.writeFrame(t, opText, message)
				<-s.Gone()
				go s.End(Broken)
				c.expectClose(t, 4400)
			})
		})
	}
	testWebSocket(t, func(t *testing.T, _ *WebSocket, c *client, _ <-chan string) { // the message is too large
		go func() {
			_, _ = c.Write([]byte{0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0})
			_, _ = c.Write(make([]byte, 0xffff))
		}()
		c.expectClose(t, 1009)
	})
}

// A client takes nothing, and has sent a close frame or violated the protocol. It must not keep the channel for as long
// as a write may take.
func TestWriteEndsSoonAfterTheClientHasGone(t *testing.T) {
	for name, goes := range map[string]func(t *testing.T, c *client){
		"it sends a close frame":   func(t *testing.T, c *client) { c.writeFrame(t, opClose, "\x03\xe8") },
		"it violates the protocol": func(t *testing.T, c *client) { c.writeFrame(t, 3, "") },
	} {
		t.Run(name, func(t *testing.T) {
			testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
				flushed := make(chan error, 1)
				go func() {
					s.Append(uuid.UUID{}, line(100<<10))
					flushed <- s.Flush()
				}()
				synctest.Wait()
				start := time.Now()
				goes(t, c)
				if err := <-flushed; err == nil || time.Since(start) != maxFailing {
					t.Errorf("Flush returned %v after %v, want an error after %v", err, time.Since(start), maxFailing)
				}
				s.End(Broken)
				if took := time.Since(start); took != maxFailing {
					t.Errorf("End returned after %v, want %v", took, maxFailing)
				}
			})
		})
	}
}

// Whatever the client does, the end takes some seconds at most. The connection is a pipe, which has no CloseWrite.
func TestWebSocketEndsEvenIfTheClientDoesNotAgree(t *testing.T) {
	for name, test := range map[string]struct {
		client func(t *testing.T, c *client)
		want   time.Duration
	}{
		"it only reads":                           {func(t *testing.T, c *client) { c.readFrame(t) }, maxClosing},
		"it takes nothing":                        {func(*testing.T, *client) {}, maxClosing},
		"it sends more messages":                  {func(t *testing.T, c *client) { c.readFrame(t); c.writeFrame(t, opText, `{"ack":"1"}`) }, maxClosing},
		"it violates the protocol":                {func(t *testing.T, c *client) { c.readFrame(t); c.writeFrame(t, 3, "") }, maxFailing},
		"it goes":                                 {func(t *testing.T, c *client) { c.readFrame(t); c.Close() }, 0},
		"it goes at once":                         {func(_ *testing.T, c *client) { c.Close() }, 0},
		"it violated the protocol before":         {func(t *testing.T, c *client) { c.writeFrame(t, 3, ""); c.readFrame(t) }, maxFailing},
		"it sent a close frame before":            {func(t *testing.T, c *client) { c.writeFrame(t, opClose, "\x03\xe8"); c.readFrame(t) }, 0},
		"it sent a close frame and takes nothing": {func(t *testing.T, c *client) { c.writeFrame(t, opClose, "\x03\xe8") }, maxLastWrite},
	} {
		t.Run(name, func(t *testing.T) {
			testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
				go test.client(t, c)
				synctest.Wait()
				start := time.Now()
				s.End(Complete)
				if took := time.Since(start); took != test.want {
					t.Errorf("End took %v, want %v", took, test.want)
				}
				within(t, s.Gone())
			})
		})
	}
}

func TestHandshakes(t *testing.T) {
	for _, test := range []struct {
		name, header, value string
		upgrade             bool
		status              int
	}{
		{"good", "", "", true, 0},
		{"no upgrade", "Upgrade", "", false, 0},
		{"another upgrade", "Upgrade", "h2c", false, 0},
		{"no connection", "Connection", "keep-alive", false, 0},
		{"old version", "Sec-WebSocket-Version", "8", true, 426},
		{"no key", "Sec-WebSocket-Key", "", true, 400},
		{"short key", "Sec-WebSocket-Key", "c2hvcnQ=", true, 400},
		{"key that is not base64", "Sec-WebSocket-Key", strings.Repeat("!", 24), true, 400},
	} {
		r := request()
		r.Header = goodHandshake.Clone()
		if test.header != "" {
			r.Header.Set(test.header, test.value)
		}
		if got := IsUpgrade(r); got != test.upgrade {
			t.Errorf("%s: IsUpgrade returned %v, want %v", test.name, got, test.upgrade)
		}
		if status, problem := CheckUpgrade(r); test.upgrade && (status != test.status || (problem == "") != (status == 0)) {
			t.Errorf("%s: CheckUpgrade returned %d, %q, want %d", test.name, status, problem, test.status)
		}
	}
	r := request()
	r.Header = goodHandshake.Clone()
	r.ProtoMajor = 2
	if IsUpgrade(r) {
		t.Error("IsUpgrade is true for HTTP/2")
	}
}

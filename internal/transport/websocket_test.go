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

// testWebSocket runs a test in a bubble, with a WebSocket that has begun and its client.
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

// frame reads a frame.
func (c *client) frame(t *testing.T) (opcode byte, payload string) {
	t.Helper()
	opcode, payload, err := c.next()
	if err != nil {
		t.Fatal(err)
	}
	return opcode, payload
}

// next does the same for other goroutines than the test's.
func (c *client) next() (opcode byte, payload string, err error) {
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

// say sends a frame, masked with zeros.
func (c *client) say(t *testing.T, opcode byte, payload string) {
	t.Helper()
	frame := append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
}

func TestWebSocketSendsEventsAtOnce(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		c.writer.writes = nil
		for i := range 3 {
			s.Append(uuid.UUID{}, fmt.Appendf(nil, "{%d}\n", i))
		}
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		for i := range 3 {
			if opcode, text := c.frame(t); opcode != opText || text != fmt.Sprintf("{%d}", i) {
				t.Errorf("frame %d %q", opcode, text)
			}
		}
		if err := <-flushed; err != nil || len(c.writer.writes) != 1 {
			t.Errorf("%d writes, %v", len(c.writer.writes), err)
		}
		if !c.writer.deadline.IsZero() {
			t.Error("a deadline is left")
		}
	})
}

func TestWebSocketPassesAcknowledgementsOn(t *testing.T) {
	testWebSocket(t, func(t *testing.T, _ *WebSocket, c *client, acks <-chan string) {
		c.say(t, opText, `{"ack":"1"}`)
		c.say(t, opText, ` { "ack" : "2", "more": [] } `)
		for _, want := range []string{"1", "2"} {
			if got := <-acks; got != want {
				t.Errorf("ack %q, want %q", got, want)
			}
		}
		c.say(t, opPing, "hello")
		if opcode, text := c.frame(t); opcode != opPong || text != "hello" {
			t.Errorf("frame %d %q for a ping", opcode, text)
		}
	})
}

func TestWebSocketPings(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		for range 3 { // answered
			if err := s.Heartbeat(); err != nil {
				t.Fatal(err)
			}
			opcode, text := c.frame(t)
			if opcode != opPing {
				t.Fatalf("frame %d", opcode)
			}
			c.say(t, opPong, text)
			synctest.Wait()
		}
		start := time.Now()
		for range 3 { // not answered, and not more than one at a time
			if err := s.Heartbeat(); err != nil {
				t.Fatal(err)
			}
		}
		if opcode, _ := c.frame(t); opcode != opPing {
			t.Fatalf("frame %d", opcode)
		}
		<-s.Gone()
		if took := time.Since(start); took < timeout || took > timeout+timeout/4 {
			t.Errorf("given up after %v", took)
		}
	})
}

func TestWebSocketWritesWithinTime(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, _ *client, _ <-chan string) {
		s.Append(uuid.UUID{}, line(1000))
		start := time.Now()
		if err := s.Flush(); err == nil || time.Since(start) != timeout {
			t.Errorf("%v after %v", err, time.Since(start))
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
			t.Errorf("a slow client: %v", err)
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
			opcode, text := c.frame(t)
			if opcode != opClose || binary.BigEndian.Uint16([]byte(text)) != code || len(text) <= 2 {
				t.Errorf("%v: frame %d %q", why, opcode, text)
			}
			c.say(t, opClose, text[:2])
			if took := (<-ended).Sub(start); took > 0 {
				t.Errorf("%v: ended after %v though the client has agreed", why, took)
			}
		})
	}
	for _, said := range []string{"hello", `{}`, `{"ack":1}`, `[]`, `{"ack":null}`} {
		testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
			c.say(t, opText, said)
			<-s.Gone()
			go s.End(Broken)
			if opcode, text := c.frame(t); opcode != opClose || binary.BigEndian.Uint16([]byte(text)) != 4400 {
				t.Errorf("%s: frame %d %q", said, opcode, text)
			}
		})
	}
	testWebSocket(t, func(t *testing.T, _ *WebSocket, c *client, _ <-chan string) { // too large
		go func() {
			_, _ = c.Write([]byte{0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0})
			_, _ = c.Write(make([]byte, 0xffff))
		}()
		if opcode, text := c.frame(t); opcode != opClose || binary.BigEndian.Uint16([]byte(text)) != 1009 {
			t.Errorf("frame %d %q", opcode, text)
		}
	})
}

// A client that has said that it goes, or nonsense, and takes nothing does not keep the channel for a whole write.
func TestAClientThatGoesDuringAWriteIsNotWaitedFor(t *testing.T) {
	for name, say := range map[string]func(t *testing.T, c *client){
		"it says that it goes": func(t *testing.T, c *client) { c.say(t, opClose, "\x03\xe8") },
		"it says nonsense":     func(t *testing.T, c *client) { c.say(t, 3, "") },
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
				say(t, c)
				if err := <-flushed; err == nil || time.Since(start) != maxFailing {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				s.End(Broken)
				if took := time.Since(start); took != maxFailing {
					t.Errorf("the end takes until %v", took)
				}
			})
		})
	}
}

// Whatever the client does, the end takes no longer than some seconds.
func TestAWebSocketEndsThoughTheClientDoesNotAgree(t *testing.T) {
	for name, test := range map[string]struct {
		client func(t *testing.T, c *client)
		want   time.Duration
	}{
		"it is silent":       {func(t *testing.T, c *client) { c.frame(t) }, maxClosing},
		"it takes nothing":   {func(*testing.T, *client) {}, maxClosing},
		"it goes on":         {func(t *testing.T, c *client) { c.frame(t); c.say(t, opText, `{"ack":"1"}`) }, maxClosing},
		"it says nonsense":   {func(t *testing.T, c *client) { c.frame(t); c.say(t, 3, "") }, maxFailing}, // a pipe has no half an end
		"it goes":            {func(t *testing.T, c *client) { c.frame(t); c.Close() }, 0},
		"it goes at once":    {func(_ *testing.T, c *client) { c.Close() }, 0},
		"it had a fault":     {func(t *testing.T, c *client) { c.say(t, 3, ""); c.frame(t) }, maxFailing},
		"it has said it":     {func(t *testing.T, c *client) { c.say(t, opClose, "\x03\xe8"); c.frame(t) }, 0},
		"it says, and rests": {func(t *testing.T, c *client) { c.say(t, opClose, "\x03\xe8") }, maxLastWrite},
	} {
		t.Run(name, func(t *testing.T) {
			testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
				go test.client(t, c)
				synctest.Wait()
				start := time.Now()
				s.End(Complete)
				if took := time.Since(start); took != test.want {
					t.Errorf("it takes %v, want %v", took, test.want)
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
		{"key that is no base64", "Sec-WebSocket-Key", strings.Repeat("!", 24), true, 400},
	} {
		r := request()
		r.Header = goodHandshake.Clone()
		if test.header != "" {
			r.Header.Set(test.header, test.value)
		}
		if got := IsUpgrade(r); got != test.upgrade {
			t.Errorf("%s: upgrade %v", test.name, got)
		}
		if status, problem := CheckUpgrade(r); test.upgrade && (status != test.status || (problem == "") != (status == 0)) {
			t.Errorf("%s: status %d, %q", test.name, status, problem)
		}
	}
	r := request()
	r.Header = goodHandshake.Clone()
	r.ProtoMajor = 2
	if IsUpgrade(r) {
		t.Error("HTTP/2 has no such upgrade")
	}
}

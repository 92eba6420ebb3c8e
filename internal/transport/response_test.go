package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// A client is the far side of a response or a WebSocket. With a pipe, a write ends only when the client has read it.
type client struct {
	net.Conn

	writer *pipeWriter
}

func newClient(t *testing.T) *client {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return &client{far, &pipeWriter{Conn: near, header: http.Header{}}}
}

// A pipeWriter is an [http.ResponseWriter] that writes to a pipe, and records how.
type pipeWriter struct {
	net.Conn

	header   http.Header
	writes   []string
	flushes  int
	deadline time.Time
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) WriteHeader(int)     {}
func (w *pipeWriter) FlushError() error   { w.flushes++; return nil }

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.writes = append(w.writes, string(p))
	return w.Conn.Write(p)
}

func (w *pipeWriter) SetWriteDeadline(t time.Time) error {
	w.deadline = t
	return w.Conn.SetWriteDeadline(t)
}

const timeout = 10 * time.Second

func request() *http.Request { return httptest.NewRequest(http.MethodGet, "/read/x", nil) }

func line(size int) []byte { return []byte(strings.Repeat("x", size-1) + "\n") }

func TestNDJSONWritesWholeLinesAtOnce(t *testing.T) {
	for _, test := range []struct {
		lines  []int
		writes []int
	}{
		{[]int{100}, []int{100}},
		{[]int{100, 200, 300}, []int{600}},
		{[]int{2000, 2000, 2000}, []int{4000, 2000}},
		{[]int{maxNDJSONWrite, 1}, []int{maxNDJSONWrite, 1}},
		{[]int{10, 5000, 10}, []int{10, 5000, 10}},
		{[]int{60_000}, []int{60_000}},
		{nil, nil},
	} {
		c := newClient(t)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		n := NewNDJSON(c.writer, request(), Bounds{Timeout: timeout})
		for _, size := range test.lines {
			n.Append(uuid.UUID{}, line(size))
		}
		if err := n.Flush(); err != nil {
			t.Fatal(err)
		}
		var writes []int
		for _, w := range c.writer.writes {
			writes = append(writes, len(w))
		}
		if fmt.Sprint(writes) != fmt.Sprint(test.writes) || c.writer.flushes != len(writes) {
			t.Errorf("lines of %v bytes: got writes of %v bytes and %d flushes, want %v and as many flushes", test.lines, writes, c.writer.flushes, test.writes)
		}
	}
}

func TestSSEFrames(t *testing.T) {
	c := newClient(t)
	go func() { _, _ = io.Copy(io.Discard, c) }()
	s := NewSSE(c.writer, request(), false, Bounds{Timeout: timeout})
	id := uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")
	err := s.Start()
	for range 2 {
		s.Append(id, []byte("{}\n"))
	}
	if err = errors.Join(err, s.Flush(), s.Heartbeat()); err != nil {
		t.Fatal(err)
	}
	event := "id: 01890a5d-ac96-774b-bcce-b302099a8057\ndata: {}\n\n"
	if want := []string{"retry: 1000\n", event + event, ":\n"}; fmt.Sprint(c.writer.writes) != fmt.Sprint(want) {
		t.Errorf("got the writes %q, want %q", c.writer.writes, want)
	}
}

func TestSSENames(t *testing.T) {
	for _, test := range []struct{ streamID, name string }{
		{`"chat"`, "event: chat\n"},
		{`"chat","missed":3`, "event: chat\n"},
		{`"a: b"`, "event: a: b\n"},
		{`" é\"\\,\"eid\":\"\u003c"`, "event:  é\"\\,\"eid\":\"<\n"},
		{`"` + strings.Repeat("x", 300) + `"`, "event: " + strings.Repeat("x", 300) + "\n"},
		{`"two\nlines"`, ""},
		{`"two\rlines"`, ""},
	} {
		c := newClient(t)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		s := NewSSE(c.writer, request(), true, Bounds{Timeout: timeout})
		line := fmt.Sprintf(`{"sid":%s,"eid":"00000000-0000-0000-0000-000000000000","ts":"","body":{"sid":"x","eid":"y"}}`, test.streamID)
		s.Append(uuid.UUID{}, []byte(line+"\n"))
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		want := test.name + "id: 00000000-0000-0000-0000-000000000000\ndata: " + line + "\n\n"
		if got := strings.Join(c.writer.writes, ""); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// streams has a function for each way to use a response: NDJSON, SSE, and the reply to a poll. Each sends a line.
var streams = map[string]func(w http.ResponseWriter, line []byte) error{
	"ndjson": func(w http.ResponseWriter, line []byte) error {
		n := NewNDJSON(w, request(), Bounds{Timeout: timeout})
		err := n.Start()
		n.Append(uuid.UUID{}, line)
		return errors.Join(err, n.Flush(), n.Heartbeat())
	},
	"sse": func(w http.ResponseWriter, line []byte) error {
		s := NewSSE(w, request(), false, Bounds{Timeout: timeout})
		err := s.Start()
		s.Append(uuid.UUID{}, line)
		return errors.Join(err, s.Flush(), s.Heartbeat())
	},
	"poll": func(w http.ResponseWriter, line []byte) error {
		WritePoll(w, request(), [][]byte{line, line}, Bounds{Timeout: timeout})
		return nil
	},
}

func TestNoDeadlineIsLeftArmed(t *testing.T) {
	for name, stream := range streams {
		c := newClient(t)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		c.writer.deadline = time.Unix(1, 0)
		if err := stream(c.writer, line(200_000)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// A poll ends its response. net/http removes the deadline of a response's end.
		if !c.writer.deadline.IsZero() && (name != "poll" || time.Until(c.writer.deadline) > timeout) {
			t.Errorf("%s left a deadline", name)
		}
	}
}

func TestSlowClientIsNotCutOffDuringALargeMessage(t *testing.T) {
	for name, stream := range streams {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t)
			const size = 1 << 20
			read := make(chan int)
			go func() { // takes many times the timeout to read everything
				total := 0
				for piece := make([]byte, maxPiece/2); ; {
					n, err := io.ReadFull(c, piece)
					total += n
					if err != nil {
						read <- total
						return
					}
					time.Sleep(timeout / 4)
				}
			}()
			if err := stream(c.writer, line(size)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			c.writer.Close()
			if got := <-read; got < size {
				t.Errorf("%s: the client got %d bytes, want at least %d", name, got, size)
			}
		})
	}
}

func TestStalledClientIsCutOff(t *testing.T) {
	for name, stream := range streams {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t)
			start := time.Now()
			err := stream(c.writer, line(200_000))
			if took := time.Since(start); took > 3*timeout { // there are three writes, one after the other
				t.Errorf("%s: the client was cut off after %v, want at most %v", name, took, 3*timeout)
			}
			if name != "poll" && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

func TestBrokenEndDoesNotLookClean(t *testing.T) {
	for why := Complete; why <= Broken; why++ {
		c := newClient(t)
		NewSSE(c.writer, request(), false, Bounds{Timeout: timeout}).End(why)
		if broken := c.writer.deadline.Equal(time.Unix(1, 0)); broken != (why == Broken) {
			t.Errorf("%v: the response is broken off: %v, want %v", why, broken, why == Broken)
		}
		if why.String() == "" {
			t.Errorf("reason %d has no name", why)
		}
	}
}

// Middlewares may hide the methods that set deadlines.
func TestResponseWithoutDeadlines(t *testing.T) {
	w := httptest.NewRecorder()
	n := NewNDJSON(w, request(), Bounds{Timeout: timeout})
	n.Append(uuid.UUID{}, []byte("{}\n"))
	if err := errors.Join(n.Start(), n.Flush()); err != nil || !bytes.Equal(w.Body.Bytes(), []byte("{}\n")) {
		t.Errorf("got the body %q, %v", w.Body, err)
	}
}

// A stuckWriter is the writer of a stream on a stalled HTTP/2 connection. A write fails only when the connection is
// closed.
type stuckWriter struct {
	*pipeWriter

	closed chan struct{}
}

func (w *stuckWriter) Write([]byte) (int, error) {
	<-w.closed
	return 0, net.ErrClosed
}

func (w *stuckWriter) Close() error {
	close(w.closed)
	return nil
}

func requestOverHTTP2() *http.Request {
	r := request()
	r.ProtoMajor, r.ProtoMinor = 2, 0
	return r
}

func TestStalledHTTP2ConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{newClient(t).writer, make(chan struct{})}
		s := NewSSE(w, requestOverHTTP2(), false, Bounds{Timeout: timeout, Conn: w})
		start := time.Now()
		if err := s.Start(); err == nil || time.Since(start) != 2*timeout {
			t.Errorf("Start returned %v after %v, want an error after %v", err, time.Since(start), 2*timeout)
		}
		s.End(Broken)
	})
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		s := NewSSE(c.writer, requestOverHTTP2(), false, Bounds{Timeout: timeout, Conn: c.writer})
		for range 3 {
			if err := s.Heartbeat(); err != nil {
				t.Errorf("the connection takes everything, and the error is %v", err)
			}
			time.Sleep(time.Hour)
		}
		s.End(Complete)
		c.writer.Close()
	})
}

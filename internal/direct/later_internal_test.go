package direct

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A storingBroker is a Broker whose store is the test: it takes every message, and the test says when it is durable.
type storingBroker struct {
	broker.Broker

	taken chan broker.Continuation
}

func (*storingBroker) PublishNow(string, *broker.Message, broker.Limits) bool { return false }

func (b *storingBroker) PublishThen(_ string, _ *broker.Message, _ broker.Limits, c broker.Continuation) bool {
	b.taken <- c
	return true
}

func newStoringSite(t *testing.T) (s *testSite, taken chan broker.Continuation) {
	s = newSlowSite(t, nil)
	taken = make(chan broker.Continuation, 10)
	s.Broker = &storingBroker{s.Broker, taken}
	return s, taken
}

// status reads a reply.
func (s *testSite) status() int {
	s.Helper()
	reply, err := http.ReadResponse(s.replies, nil)
	if err != nil {
		s.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, reply.Body)
	return reply.StatusCode
}

func TestAWriteIsAnsweredWhenItIsDurable(t *testing.T) {
	s, taken := newStoringSite(t)
	for range 3 {
		s.sendShort()
		c := <-taken
		if s.Waits.Load() != 1 {
			t.Error("the write does not count as one that waits")
		}
		_ = s.client.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := s.replies.ReadByte(); err == nil {
			t.Error("there is a reply already")
		}
		_ = s.client.SetReadDeadline(time.Time{})
		c.Published(nil)
		if status := s.status(); status != http.StatusCreated || s.Waits.Load() != 0 {
			t.Errorf("status %d, %d wait", status, s.Waits.Load())
		}
	}
}

// TestTheNextWriteWaitsForTheReplyToTheLast: replies are in the order of the requests.
func TestTheNextWriteWaitsForTheReplyToTheLast(t *testing.T) {
	s, taken := newStoringSite(t)
	request := fmt.Sprintf("POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/json\r\nContent-Length: 1\r\n\r\n1", s.address.Producer)
	if _, err := io.WriteString(s.client, strings.Repeat(request, 3)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c := <-taken
		select {
		case <-taken:
			t.Fatal("the next write was given to the Broker too early")
		case <-time.After(time.Millisecond):
		}
		if i == 1 {
			c.Published(broker.ErrOutcomeUnknown)
		} else {
			c.Published(nil)
		}
	}
	for _, want := range []int{201, 503, 201} {
		if status := s.status(); status != want {
			t.Errorf("status %d, want %d", status, want)
		}
	}
}

// TestAReplyThatIsOwedOutlivesWhatEndsTheConnection ends a connection while the reply to its last write is owed.
func TestAReplyThatIsOwedOutlivesWhatEndsTheConnection(t *testing.T) {
	const other = "GET /write/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for name, end := range map[string]func(s *testSite){
		"the client sends no more":   func(s *testSite) { _ = s.client.(*net.UnixConn).CloseWrite() },
		"another kind of request":    func(s *testSite) { _, _ = s.client.Write([]byte(other)) },
		"the beginning of a request": func(s *testSite) { _, _ = s.client.Write([]byte(other[:10])) },
		"a new configuration":        func(s *testSite) { s.Conns.End() },
	} {
		t.Run(name, func(t *testing.T) {
			s, taken := newStoringSite(t)
			s.sendShort()
			c := <-taken
			end(s)
			time.Sleep(5 * time.Millisecond) // so serve reads it; without that the test may pass in vain
			if testutil.ToFloat64(s.Count) != 1 {
				t.Error("the connection is not served directly any more")
			}
			c.Published(nil)
			if status := s.status(); status != http.StatusCreated {
				t.Errorf("status %d", status)
			}
			s.await(func() bool { return testutil.ToFloat64(s.Count) == 0 && s.Waits.Load() == 0 })
			if name == "a new configuration" { // the reply says that the connection ends
				_ = s.client.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := s.replies.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
}

// TestAReplyThatCannotBeSentEndsTheConnection: serve waits for the next request then.
func TestAReplyThatCannotBeSentEndsTheConnection(t *testing.T) {
	before := guard.OnPanic(func(guard.Place, any, []byte) {})
	defer func() { guard.OnPanic(before) }()
	for name, end := range map[string]func(s *testSite, c *producerConn){
		"the client is gone": func(s *testSite, c *producerConn) {
			s.client.Close()
			c.Published(nil)
		},
		"a panic": func(s *testSite, c *producerConn) {
			s.Refuse = func(http.ResponseWriter, *http.Request, string, error) { panic("boom") }
			c.Published(broker.ErrOutcomeUnknown)
		},
		"the refusal closes": func(s *testSite, c *producerConn) {
			s.Refuse = func(w http.ResponseWriter, _ *http.Request, _ string, _ error) {
				w.Header().Set("Connection", "close")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			c.Published(broker.ErrOutcomeUnknown)
			if status := s.status(); status != http.StatusServiceUnavailable {
				s.Errorf("status %d", status)
			}
			s.client.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, taken := newStoringSite(t)
			s.sendShort()
			end(s, (<-taken).(*producerConn))
			s.await(func() bool { return testutil.ToFloat64(s.Count) == 0 && s.Waits.Load() == 0 })
		})
	}
}

// TestAClientThatTakesNoRepliesHoldsUpNobody: the Broker's goroutine goes on, and the client gets the rest when it takes it.
func TestAClientThatTakesNoRepliesHoldsUpNobody(t *testing.T) {
	s, taken := newStoringSite(t)
	s.sendShort()
	c := (<-taken).(*producerConn)
	filler := []byte("HTTP/1.1 100 Continue\r\n\r\n")
	sent := 0
	for ; ; sent++ { // the goroutine of serve does not write while a reply is owed
		n, err := c.writer.TryWrite(filler)
		if err != nil {
			t.Fatal(err)
		}
		if n < len(filler) {
			c.out = append(c.out, filler[n:]...)
			break
		}
	}
	c.Published(nil)
	if s.Waits.Load() != 1 {
		t.Error("the reply counts as sent")
	}
	text := make([]byte, (sent+1)*len(filler))
	if _, err := io.ReadFull(s.replies, text); err != nil || !strings.HasSuffix(string(text), string(filler)) {
		t.Error(err)
	}
	if status := s.status(); status != http.StatusCreated {
		t.Errorf("status %d", status)
	}
	s.await(func() bool { return s.Waits.Load() == 0 })
}

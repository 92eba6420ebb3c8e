package megaphone_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/caddy-megaphone/megaphone"
)

// A channel has the addresses of a channel.
type channel struct {
	ProducerAddress, ConsumerAddress string
}

func (c channel) writePath() string { return "/write/" + c.ProducerAddress + "/stream" }

func (c channel) readPath() string { return "/read/" + c.ConsumerAddress }

// create creates a channel, which must succeed.
func (s *server) create() channel {
	s.Helper()
	return s.createAt("")
}

// createAt creates a channel at a site below a prefix.
func (s *server) createAt(prefix string) channel {
	s.Helper()
	var c channel
	r := s.do(http.MethodPost, prefix+"/create", nil, nil)
	if err := json.Unmarshal([]byte(r.body), &c); err != nil || r.StatusCode != http.StatusOK {
		s.Fatalf("create: %d %s", r.StatusCode, r.body)
	}
	return c
}

// tryCreate sends a request to create a channel.
func (s *server) tryCreate() reply {
	s.Helper()
	return s.do(http.MethodPost, "/create", nil, nil)
}

// deleteChannel sends a request to delete a channel.
func (s *server) deleteChannel(c channel) reply {
	s.Helper()
	return s.do(http.MethodDelete, "/channel/"+c.ProducerAddress, nil, nil)
}

// createAndDelete creates channels and deletes them.
func (s *server) createAndDelete(n int) (channels []channel) {
	s.Helper()
	for range n {
		c := s.create()
		if r := s.deleteChannel(c); r.StatusCode != http.StatusOK {
			s.Fatalf("delete: %d %s", r.StatusCode, r.body)
		}
		channels = append(channels, c)
	}
	return channels
}

// write writes a message, which the channel must accept.
func (s *server) write(c channel, body string) {
	s.Helper()
	if r := s.tryWrite(c, body); r.StatusCode != http.StatusCreated {
		s.Fatalf("write: %d %s", r.StatusCode, r.body)
	}
}

// tryWrite sends a request to write a message.
func (s *server) tryWrite(c channel, body string) reply {
	s.Helper()
	return s.post(c.writePath(), body)
}

// startWrite is like tryWrite, but does not wait for the reply.
func (s *server) startWrite(c channel, body string) <-chan reply {
	s.Helper()
	written := make(chan reply, 1)
	go func() { written <- s.tryWrite(c, body) }()
	return written
}

// awaitHeldWrite waits until a write waits for room in a channel.
func (s *server) awaitHeldWrite() {
	s.Helper()
	s.eventually(func() bool { return megaphone.HeldBytes() > 0 })
}

// ingest streams lines to POST /write.
func (s *server) ingest(lines io.Reader) reply {
	s.Helper()
	return s.do(http.MethodPost, "/write", linesHeader, lines)
}

// ingestLine returns a line for ingest. The body is JSON.
func ingestLine(producerAddress, body string) string {
	return fmt.Sprintf(`{"channel":%q,"streamId":"s","body":%s}`, producerAddress, body)
}

// A message is a line of a read.
type message struct {
	SID, EID, TS string
	Body         json.RawMessage
}

// A read is an open read over NDJSON.
type read struct {
	*testing.T

	response *http.Response
	lines    *bufio.Reader
}

// read reads a channel.
func (s *server) read(c channel) *read {
	s.Helper()
	return s.openRead(c.readPath(), nil)
}

// readAfter reads a channel after a cursor, which may be empty. It takes over the channel from another reader.
func (s *server) readAfter(c channel, cursor string) *read {
	s.Helper()
	return s.openRead(c.readPath()+"?after="+cursor, nil)
}

func (s *server) openRead(path string, header http.Header) *read {
	s.Helper()
	response := s.open(http.MethodGet, path, header, nil)
	if response.StatusCode != http.StatusOK {
		s.Fatalf("read: %s", response.Status)
	}
	return &read{s.T, response, bufio.NewReader(response.Body)}
}

// openSSE reads a channel as server-sent events. It takes over the channel from another reader.
func (s *server) openSSE(c channel) *http.Response {
	s.Helper()
	return s.open(http.MethodGet, c.readPath(), http.Header{"Accept": {"text/event-stream"}}, nil)
}

// poll asks for the messages in a channel, and does not wait for one.
func (s *server) poll(c channel) reply {
	s.Helper()
	return s.get(c.readPath() + "?poll=0")
}

// in returns the same read for a subtest.
func (r *read) in(t *testing.T) *read {
	same := *r
	same.T = t
	return &same
}

// next waits for a message.
func (r *read) next() message {
	r.Helper()
	line, err := r.lines.ReadBytes('\n')
	if err != nil {
		r.Fatalf("%q: %v", line, err)
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		r.Fatalf("%q: %v", line, err)
	}
	return m
}

// wants waits for messages with these bodies.
func (r *read) wants(bodies ...string) {
	r.Helper()
	for _, body := range bodies {
		if m := r.next(); string(m.Body) != body {
			r.Fatalf("got %s, want %s", m.Body, body)
		}
	}
}

// ends waits for messages with these bodies, and then for a clean end.
func (r *read) ends(bodies ...string) {
	r.Helper()
	r.wants(bodies...)
	if rest, err := io.ReadAll(r.lines); err != nil || len(rest) > 0 {
		r.Fatalf("got %q, %v, want a clean end", rest, err)
	}
}

// close aborts the read.
func (r *read) close() { r.response.Body.Close() }

// awaitNoReader waits until the server has noticed that the reader of a channel is gone.
func (s *server) awaitNoReader(c channel) {
	s.Helper()
	s.eventually(func() bool { return s.poll(c).StatusCode != http.StatusConflict })
}

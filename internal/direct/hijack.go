// Package direct serves writes without net/http: direct writes.
//
// A backend often keeps a connection and writes one message after the other. Most of what such a write costs is then what
// net/http and Caddy do for each request (docs/performance.md). So after some writes in a row that differ only in their
// path, body, length and idempotency key, [Site.Hijack] hijacks the connection from net/http. From then on this package serves
// the connection.
//
// A direct write is a request that
//   - differs only in these parts from a write that has gone through all of Caddy,
//   - has arrived as a whole within a second,
//   - and has a message.
//
// Everything else goes back to net/http together with the connection, unserved: other requests, slow requests, malformed
// ones. If the Broker does not accept a message at once, the connection waits for it. If the Broker refuses the message, the
// code that replies is the same as with net/http ([Options].Refuse).
//
// Hijack leaves a connection to net/http if anybody would notice. It must be HTTP/1.1 without TLS, no other handler may
// come before the one that direct writes stand in for, and no access log, metrics or limit of Caddy's may concern the
// writes.
//
// The package knows Caddy's servers and routes. It knows nothing of Megaphone's handlers and settings except [Options].
package direct

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/direct/pattern"
	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/obstacle"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// minWrites is how many like writes must have come in a row before their connection is hijacked. To hijack a connection
// costs as much as some direct writes save. So if a producer does other things in between, the number doubles each time,
// up to maxWrites.
const minWrites, maxWrites = 8, 1024

// maxChanges is how often the headers of a connection's writes may change before the log says so.
const maxChanges = 64

// prefix begins the path of a direct write.
const prefix = "/write/"

// Hijack hijacks the connection of a write if it is time to, and reports whether it did. The handler of r calls it when the
// channel of producer has accepted the message m and nothing of the reply was sent. If Hijack returns true, it sends the
// reply itself, and the handler must return without using w or r again. If it returns false, the handler must send the
// reply.
func (s *Site) Hijack(w http.ResponseWriter, r *http.Request, producer string, m *broker.Message) bool {
	client := conn.ClientOf(r)
	if client == nil || r.ProtoMajor != 1 {
		reason, detail := obstacle.Of(w, r)
		s.log.Kept(r, cmp.Or(reason, obstacle.Wrapped), detail)
		return false
	}
	if client.NeverHijack {
		return false
	}
	goesOn, served := false, 0 // the connection was served directly, and goes on with that
	if sample := s.sampleOf(client.Note); sample != nil {
		goesOn, served = sample.accepted(w, r, producer, m), sample.served
	}
	hijackAfter := minWrites
	if n, _ := client.Note.(*note); n != nil {
		hijackAfter = n.hijackAfter
	}
	if s.distrusted.Load() || !s.isTime(client, r, hijackAfter) && !goesOn {
		return false
	}
	client.Writes, client.Changes = 0, 0
	reason, detail := obstacle.Of(w, r)
	if reason == "" {
		reason = s.obstacle(r)
	}
	if reason != "" {
		client.NeverHijack, client.Header = true, nil
		s.log.Kept(r, reason, detail)
		return false
	}
	return s.hijack(w, r, client, m.Merge(), hijackAfter, served)
}

// isTime reports whether enough writes like r have come in a row.
func (s *Site) isTime(client *conn.Client, r *http.Request, hijackAfter int) bool {
	if !pattern.Same(client.Header, r.Header) {
		if client.Header != nil {
			client.Changes++
		}
		if client.Changes >= maxChanges {
			s.log.Kept(r, headersDiffer, pattern.Difference(client.Header, r.Header))
			client.Changes = 0
		}
		client.Writes, client.Header = 0, r.Header
	}
	client.Writes++
	return client.Writes >= hijackAfter
}

// hijack hijacks the connection of an accepted write, and sends the reply. It returns false if that is not possible now.
func (s *Site) hijack(w http.ResponseWriter, r *http.Request, client *conn.Client, merge broker.Merge, hijackAfter, served int) bool {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	bare := handover.Socket(client.Conn)
	if !mayRepeat(r) {
		s.log.Kept(r, tooOdd, "")
		return false
	}
	if server == nil || bare == nil || s.Over() {
		return false
	}
	reply, ok := newReply(w.Header())
	if !ok {
		return false
	}
	// Caddy may have set a deadline for the body. It removes the deadline when the end of the body is read.
	if n, err := r.Body.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return false
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.log.Kept(r, obstacle.Fault, err.Error())
		return false
	}
	hijacked := false
	defer func() {
		if !hijacked { // a panic: net/http does not close a hijacked connection
			_ = client.Close()
		}
	}()
	early, _ := buffered.Peek(buffered.Reader.Buffered()) // cannot fail: the bytes are in the buffer
	c := &producerConn{
		site: s, origin: client.Conn, socket: socket.Quick(bare), server: server, hijackedAfter: hijackAfter,
		first: &http.Request{
			Method: r.Method, Host: r.Host, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor, Header: r.Header,
		},
		timeout: conn.WriteTimeout(r, s.WriteTimeout), reply: reply, merge: merge,
		buffer: slices.Clone(early), end: len(early), served: served, sampleIn: s.untilSample(),
		idle: cmp.Or(server.IdleTimeout, server.ReadTimeout), last: clock.Now(),
	}
	c.writer = socket.NewWriter(bare)
	c.out = c.reply.append(c.out, c.last, false)
	hijacked = true
	s.log.Bypassed(r)
	go c.serve()
	return true
}

// mayRepeat reports whether requests like r can be served directly.
func mayRepeat(r *http.Request) bool {
	path, ok := strings.CutPrefix(r.RequestURI, prefix)
	return ok && pattern.IsPath(path) && r.ProtoAtLeast(1, 1) && !r.Close &&
		0 <= r.ContentLength && r.ContentLength <= pattern.MaxBody &&
		r.Header.Get("Expect") == "" && r.Header.Get("Content-Encoding") == "" && r.Header.Get("Upgrade") == ""
}

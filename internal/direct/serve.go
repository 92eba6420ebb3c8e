package direct

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/direct/pattern"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

const (
	// maxHead is the longest header, in bytes, of a direct write.
	maxHead = 4 << 10
	// maxArrival is how long the rest of a direct write may take to arrive.
	maxArrival = time.Second
	// maxKept is the size, in bytes, of the largest buffer that a connection keeps for the next write.
	maxKept = 16 << 10
)

// A producerConn is the hijacked connection of a producer. Only the goroutine of serve uses it, except for interrupt and what
// later says.
type producerConn struct {
	site          *Site
	origin        net.Conn      // the connection that the server accepted
	socket        net.Conn      // the socket of origin
	server        *http.Server  // gets the connection back in the end
	first         *http.Request // the request that the others repeat
	hijackedAfter int           // how many writes it took until the connection was hijacked
	writer        socket.Writer
	timeout       time.Duration // how long the client may take nothing of the replies
	reply         reply
	merge         broker.Merge // of all messages, for the requests have the same header

	pattern    *pattern.Pattern // of the last request; nil before the first one
	buffer     []byte
	begin, end int    // buffer[begin:end] was read and is not served
	length     int    // of the request at begin; 0 if it is unknown
	out        []byte // replies that are not sent
	served     int    // how many requests were served
	sampleIn   int    // how many requests are served before the next sample
	sample     *sample
	skipped    int // how many bytes of empty lines were skipped since the last of them
	watch      watch
	later      later
	err        error // why the connection is broken

	idle  time.Duration // how long the client may send no request; 0: as long as it likes
	last  time.Duration // when the last request was served, on the clock of clock.Now
	due   int           // Read's deadline is for the rest of the request with this number, or for the next request if -1
	over  atomic.Bool   // the configuration was replaced, or the process exits
	grace bool          // since over, the rest of a request got a deadline of its own
}

// serve serves direct writes until something else comes, or until the connection is interrupted.
func (c *producerConn) serve() {
	conns, count := c.site.Conns, c.site.Count
	count.Inc()
	defer guard.Recover(guard.DirectWrite, func() { _ = c.socket.Close() }) // as net/http does for handlers
	leave := sync.OnceFunc(func() {
		count.Dec()
		conns.remove(c)
	})
	defer leave()
	if conns.add(c); c.site.Over() {
		c.interrupt()
	}
	err := c.arm(c.idle, -1)
	for err == nil {
		err = c.serveAll()
	}
	c.settle()
	leave()
	if !errors.Is(err, errGoesBack) {
		_ = c.socket.Close()
		return
	}
	hijackAfter := minWrites
	switch {
	case c.sample != nil:
		hijackAfter = c.hijackedAfter
	case c.served < c.hijackedAfter && !c.over.Load():
		hijackAfter = min(2*c.hijackedAfter, maxWrites)
	}
	handover.GiveBack(c.server, c.origin, slices.Clone(c.buffer[c.begin:c.end]), &note{hijackAfter, c.sample})
}

// errGoesBack says that the connection must go back to its server.
var errGoesBack = errors.New("the connection goes back")

// serveAll serves the requests that were read, and reads more. Once the configuration was replaced, it serves at most the
// one request that had begun to arrive.
func (c *producerConn) serveAll() error {
	outcome := served
	for outcome == served || outcome == waits && c.begin < c.end {
		outcome = c.serveNext()
	}
	if outcome == waits {
		return c.read()
	}
	if err := c.flush(); err != nil {
		return err
	}
	switch {
	case outcome == broken:
		return c.err
	case outcome == closing, outcome == final && !handover.Outlives(c.origin):
		c.awaitClose() // the reply said that the connection ends
		return io.EOF
	case outcome == final, outcome == other, c.begin == c.end && c.over.Load():
		return errGoesBack
	}
	return c.read()
}

// An outcome says what became of a request.
type outcome int

const (
	served  outcome = iota
	waits           // Published sends its reply
	final           // it was served, and is the last one
	closing         // it was served, and its reply ends the connection
	broken          // its reply could not be sent
	partial         // its rest has not arrived yet
	other           // it cannot be served directly
)

var headEnd = []byte("\r\n\r\n")

// serveNext serves the next request if it has arrived as a whole. The reply to the last one comes first.
func (c *producerConn) serveNext() outcome {
	if o := c.settle(); o != served {
		return o
	}
	c.length = 0
	c.skipEmptyLines()
	p := c.buffer[c.begin:c.end]
	if len(p) > 0 && isLineEnd(p[0]) {
		return other // net/http refuses it
	}
	n := bytes.Index(p, headEnd) + len(headEnd)
	switch {
	case n > maxHead, n < len(headEnd) && len(p) >= maxHead, c.site.distrusted.Load():
		return other
	case n < len(headEnd):
		return partial
	}
	request, ok := c.match(p[:n])
	if !ok || int64(request.Length) > c.site.MaxMessageSize {
		return other
	}
	body := p[n:]
	if len(body) < request.Length {
		c.length = n + request.Length
		return partial
	}
	producer, streamID, ok := strings.Cut(string(request.Path), "/")
	if !ok || strings.Contains(streamID, "/") || request.Key != nil && !broker.ValidKey(string(request.Key)) {
		return other
	}
	m, err := broker.NewMessage(streamID, body[:request.Length], string(request.Key))
	if err == nil {
		m.WithMerge(c.merge)
	}
	if c.sampleIn--; c.sampleIn < 0 && err == nil && !c.over.Load() {
		c.sample = c.newSample(producer, string(request.Key), m)
		return other
	}
	if err != nil {
		return other
	}
	accepted := c.site.Broker.PublishNow(producer, m, c.site.Limits)
	c.begin += n + request.Length
	c.served++
	c.skipped = 0
	if !accepted {
		return c.publish(producer, m)
	}
	c.last = m.Accepted()
	over := c.over.Load()
	c.out = c.reply.append(c.out, c.last, over && !handover.Outlives(c.origin))
	if over {
		return final
	}
	return served
}

// maxSkipped is how many bytes of empty lines before a request are skipped. net/http has the same limit.
const maxSkipped = 4

// skipEmptyLines skips empty lines before a request: some clients send one after a body (RFC 9112, 2.2).
func (c *producerConn) skipEmptyLines() {
	for c.begin < c.end && isLineEnd(c.buffer[c.begin]) && c.skipped < maxSkipped {
		c.begin++
		c.skipped++
	}
}

func isLineEnd(b byte) bool { return b == '\r' || b == '\n' }

// match returns the parts in which a request may differ. It reports false if the request differs in others too.
func (c *producerConn) match(head []byte) (r pattern.Request, ok bool) {
	if c.pattern != nil {
		if r, ok = c.pattern.Match(head); ok {
			return r, true
		}
	}
	if c.pattern, ok = pattern.Learn(head, c.first, prefix); !ok {
		return r, false
	}
	return c.pattern.Match(head)
}

// flush sends the replies.
func (c *producerConn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.writer.Write(c.out, c.timeout)
	if c.out = c.out[:0]; cap(c.out) > maxKept {
		c.out = nil
	}
	return err
}

// maxAwaitClose is how long awaitClose waits. net/http has the same limit.
const maxAwaitClose = 500 * time.Millisecond

// awaitClose ends the connection for writing, and waits until the client closes it too. If we closed the connection while
// there is something to read, the system would send a reset, which could overtake the reply.
func (c *producerConn) awaitClose() {
	half, ok := c.socket.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil && c.socket.SetReadDeadline(time.Now().Add(maxAwaitClose)) == nil {
		_, _ = io.Copy(io.Discard, c.socket)
	}
}

// interrupt makes the connection go back to its server. Any goroutine may call it.
func (c *producerConn) interrupt() {
	c.over.Store(true)
	_ = c.socket.SetReadDeadline(time.Unix(1, 0))
}

package direct

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/direct/pattern"
	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

const (
	// maxHead is the longest header, in bytes, of a direct write.
	maxHead = 4 << 10
	// maxArrival is how long the rest of a direct write may take to arrive.
	maxArrival = time.Second
	// maxKept is the largest buffer, in bytes, that a connection keeps for the next write.
	maxKept = 16 << 10
)

// largeBuffers are for requests that are larger than that, but not so large that their length is not trusted.
var largeBuffers = sync.Pool{New: func() any { return new([httpjson.MaxKeptBody]byte) }}

// A producerConn is the connection of a producer that was taken over from net/http, because it writes one message after the
// other and nothing in the configuration could tell (isAlone). That spares what net/http and Caddy do for each
// request, which is most of what a write costs (docs/performance.md).
//
// A direct write is one that repeats a request which has gone through all of Caddy, but for its path, body and
// idempotency key, whose rest comes within a second, and that the channel takes at once. Anything else goes back to
// net/http with the connection, unserved: other requests, slow ones, errors, full channels. So there is one place only
// that refuses and waits.
type producerConn struct {
	options  *Options
	origin   net.Conn      // what the server had accepted
	socket   net.Conn      // that it is
	server   *http.Server  // is given the connection in the end
	first    *http.Request // what the others repeat
	patience int           // how many writes it took until the connection was taken over
	writer   socket.Writer
	timeout  time.Duration // for the client to take replies
	reply    reply

	pattern    *pattern.Pattern // of the last request; nil before it
	buffer     []byte
	begin, end int    // of what was read and not served
	length     int    // of the request that begins there; 0 if it is not known
	out        []byte // replies that are not written
	served     int

	idle  time.Duration // how long there may be no request
	last  time.Duration // when the last one came, on the clock of clock.Now
	due   int           // the number of the request whose rest must come by the deadline of Read; -1 if it is for the next one
	over  atomic.Bool   // the configuration was replaced, or the process exits
	grace bool          // the rest of a request got a deadline since then
}

// serve serves direct writes until something else comes, or the connection is interrupted.
func (c *producerConn) serve() {
	conns, count := c.options.Conns, c.options.Count
	count.Inc()
	defer func() {
		count.Dec()
		conns.remove(c)
		if fault := recover(); fault != nil { // as net/http does for handlers
			c.options.Logger.Error("a write failed", zap.Any("panic", fault), zap.StackSkip("stack", 1))
			_ = c.socket.Close()
		}
	}()
	if conns.add(c); c.options.Over() {
		c.interrupt()
	}
	err := c.arm(c.idle, -1)
	for err == nil {
		err = c.serveAll()
	}
	conns.remove(c)
	if !errors.Is(err, errGoesBack) {
		_ = c.socket.Close()
		return
	}
	patience := minWrites
	if c.served < c.patience && !c.over.Load() {
		patience = min(2*c.patience, maxWrites)
	}
	handover.GiveBack(c.server, c.origin, slices.Clone(c.buffer[c.begin:c.end]), patience)
}

// serveAll serves what is there, and reads more. Once the configuration was replaced, it serves no more than the request
// that had begun to come.
func (c *producerConn) serveAll() error {
	outcome := served
	for outcome == served {
		outcome = c.serveNext()
	}
	if err := c.flush(); err != nil {
		return err
	}
	switch {
	case outcome == final && !handover.Outlives(c.origin):
		c.hangUp() // as the client was told
		return io.EOF
	case outcome == final, outcome == other, c.begin == c.end && c.over.Load():
		return errGoesBack
	}
	return c.read()
}

// maxHangUp is how long a client may go on sending that was told that the connection ends. It is net/http's.
const maxHangUp = 500 * time.Millisecond

// hangUp says goodbye. Were the connection closed while there is something to read, its reset could overtake the reply.
func (c *producerConn) hangUp() {
	half, ok := c.socket.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil && c.socket.SetReadDeadline(time.Now().Add(maxHangUp)) == nil {
		_, _ = io.Copy(io.Discard, c.socket)
	}
}

// errGoesBack tells that the connection is to be given back.
var errGoesBack = errors.New("the connection goes back")

// An outcome says what became of a request.
type outcome int

const (
	served  outcome = iota
	final           // it was served, and is the last one
	partial         // its rest has not come yet
	other           // it cannot be served directly
)

var headEnd = []byte("\r\n\r\n")

// serveNext serves the next request, if all of it is there.
func (c *producerConn) serveNext() outcome {
	c.length = 0
	p := bytes.TrimLeft(c.buffer[c.begin:c.end], "\r\n") // some clients send one after a body (RFC 9112, 2.2)
	c.begin = c.end - len(p)
	n := bytes.Index(p, headEnd) + len(headEnd)
	switch {
	case n > maxHead, n < len(headEnd) && len(p) >= maxHead:
		return other
	case n < len(headEnd):
		return partial
	}
	request, ok := c.match(p[:n])
	if !ok || int64(request.Length) > c.options.MaxMessageSize {
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
	if err != nil || !c.options.Broker.PublishNow(producer, m, c.options.Limits) {
		return other
	}
	c.begin += n + request.Length
	c.served++
	c.last = m.Accepted()
	over := c.over.Load()
	c.out = c.reply.append(c.out, c.last, over && !handover.Outlives(c.origin))
	if over {
		return final
	}
	return served
}

// match reports false if a request is not like the others.
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

// read reads more, or finds out that there is more time for it.
func (c *producerConn) read() error {
	c.makeRoom()
	if c.end > c.begin && c.due != c.served {
		if err := c.arm(maxArrival, c.served); err != nil {
			return err
		}
	}
	n, err := c.socket.Read(c.buffer[c.end:])
	c.end += n
	switch {
	case n > 0:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.late()
	case errors.Is(err, io.EOF) && c.end > c.begin:
		return errGoesBack // the client may still wait for what is said of half a request
	}
	return err
}

// makeRoom makes room in the buffer, for all of a request whose length is known and can be trusted.
func (c *producerConn) makeRoom() {
	if c.begin == c.end {
		c.begin, c.end = 0, 0
		if len(c.buffer) > maxKept {
			c.resize(maxHead)
		}
	}
	need := min(c.length, httpjson.MaxKeptBody)
	switch {
	case c.end < len(c.buffer) && c.begin+need <= len(c.buffer):
	case c.begin > 0 && need <= len(c.buffer):
		c.end = copy(c.buffer, c.buffer[c.begin:c.end])
		c.begin = 0
	default:
		c.resize(max(need, 2*len(c.buffer), maxHead))
	}
}

// resize takes another buffer.
func (c *producerConn) resize(size int) {
	old := c.buffer
	if maxKept < size && size <= httpjson.MaxKeptBody {
		c.buffer = largeBuffers.Get().(*[httpjson.MaxKeptBody]byte)[:]
	} else {
		c.buffer = make([]byte, size)
	}
	c.end = copy(c.buffer, old[c.begin:c.end])
	c.begin = 0
	if len(old) == httpjson.MaxKeptBody {
		largeBuffers.Put((*[httpjson.MaxKeptBody]byte)(old))
	}
}

// late is called when a deadline of Read has passed. That of a request stays when the request is served, since taking
// it back would cost as much as setting it.
func (c *producerConn) late() error {
	over := c.over.Load()
	if c.end > c.begin {
		if over && !c.grace { // it may be the one by which interrupt tells
			c.grace = true
			return c.arm(maxArrival, c.served)
		}
		return errGoesBack // net/http has its own limits for slow clients
	}
	idle := clock.Now() - c.last
	switch {
	case over:
		return errGoesBack
	case c.idle > 0 && idle >= c.idle:
		return os.ErrDeadlineExceeded
	}
	return c.arm(c.idle-idle, -1)
}

// arm sets the deadline of Read, for the rest of a request or, if due is -1, for the begin of the next one.
func (c *producerConn) arm(limit time.Duration, due int) error {
	var deadline time.Time
	if due >= 0 || c.idle > 0 {
		deadline = time.Now().Add(limit)
	}
	c.due = due
	err := c.socket.SetReadDeadline(deadline)
	if due < 0 && c.over.Load() {
		c.interrupt() // this may have come in between
	}
	return err
}

// interrupt makes the connection go back. It may be called from any goroutine.
func (c *producerConn) interrupt() {
	c.over.Store(true)
	_ = c.socket.SetReadDeadline(time.Unix(1, 0))
}

// Conns are the connections that a configuration has taken over. The zero value is ready.
type Conns struct {
	mu    sync.Mutex
	conns map[*producerConn]struct{}
}

func (d *Conns) add(c *producerConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns == nil {
		d.conns = map[*producerConn]struct{}{}
	}
	d.conns[c] = struct{}{}
}

func (d *Conns) remove(c *producerConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

// End gives all connections back, to their servers or to those that have taken their place.
func (d *Conns) End() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		c.interrupt()
	}
}

package megaphone

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
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

	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/repeat"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

const (
	// minWrites is how many writes alike must have come in a row before their connection is taken over. Changing hands
	// costs as much as some direct writes save, so for a producer that does other things in between it is the double each
	// time, up to maxWrites.
	minWrites, maxWrites = 8, 1024
	// maxDirectHead is the longest header, in bytes, of a direct write.
	maxDirectHead = 4 << 10
	// maxArrival is how long the rest of a direct write may take to arrive.
	maxArrival = time.Second
	// maxKeptDirect is the largest buffer, in bytes, that a connection keeps for the next write.
	maxKeptDirect = 16 << 10
)

// A directConn is the connection of a producer that was taken over from net/http, because it writes one message after the
// other and nothing in the configuration could tell (isAlone). That spares what net/http and Caddy do for each
// request, which is most of what a write costs (docs/performance.md).
//
// A direct write is one that repeats a request which has gone through all of Caddy, but for its path, body and
// idempotency key, whose rest comes within a second, and that the channel takes at once. Anything else goes back to
// net/http with the connection, unserved: other requests, slow ones, errors, full channels. So there is one place only
// that refuses and waits.
type directConn struct {
	handler  *Handler
	origin   net.Conn      // what the server had accepted
	socket   net.Conn      // that it is
	server   *http.Server  // is given the connection in the end
	first    *http.Request // what the others repeat
	patience int           // how many writes it took until the connection was taken over
	writer   socket.Writer
	timeout  time.Duration // for the client to take replies
	reply    directReply

	pattern    *repeat.Pattern // of the last request; nil before it
	buffer     []byte
	begin, end int    // of what was read and not served
	out        []byte // replies that are not written
	served     int

	idle  time.Duration // how long there may be no request
	last  time.Duration // when the last one came, on messageClock
	due   int           // the number of the request whose rest must come by the deadline of Read; -1 if it is for the next one
	over  atomic.Bool   // the configuration was replaced
	grace bool          // the rest of a request got a deadline since then
}

// takeOverWrites is called for a write that was accepted. It takes its connection over if it is time to, and reports
// whether it has. The reply is sent then, too.
func (h *Handler) takeOverWrites(w http.ResponseWriter, r *http.Request) bool {
	conn := clientConnOf(r)
	if conn == nil || r.ProtoMajor != 1 || conn.stays {
		return false
	}
	if !repeat.Same(conn.header, r.Header) {
		conn.writes, conn.header = 0, r.Header
	}
	if conn.writes++; conn.writes < conn.patience {
		return false
	}
	conn.writes = 0
	if !isBare(w, r) || !h.isAlone(r) || handover.Socket(conn.Conn) == nil {
		conn.stays, conn.header = true, nil
		return false
	}
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	reply, ok := newDirectReply(w.Header())
	if !ok || server == nil || !mayRepeat(r) || h.app.direct.isOver() {
		return false
	}
	// At the end of the body Caddy takes back the deadline that it has set for it.
	if n, err := r.Body.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return false
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	early, _ := buffered.Peek(buffered.Reader.Buffered()) // they are there
	c := &directConn{
		handler: h, origin: conn.Conn, socket: handover.Socket(conn.Conn), server: server, patience: conn.patience,
		first:   &http.Request{Method: r.Method, Host: r.Host, Proto: r.Proto, Header: r.Header},
		timeout: h.writeTimeout(r), reply: reply,
		buffer: slices.Clone(early), end: len(early),
		idle: cmp.Or(server.IdleTimeout, server.ReadTimeout), last: messageClock(),
	}
	c.writer = socket.NewWriter(c.socket)
	c.out = c.reply.append(c.out, c.last, false)
	go c.serve()
	return true
}

const directPrefix = "/write/"

// mayRepeat reports whether a request is of a kind that can be served directly.
func mayRepeat(r *http.Request) bool {
	path, ok := strings.CutPrefix(r.RequestURI, directPrefix)
	return ok && repeat.IsPath(path) && r.ProtoAtLeast(1, 1) && !r.Close &&
		0 <= r.ContentLength && r.ContentLength <= repeat.MaxBody &&
		r.Header.Get("Expect") == "" && r.Header.Get("Upgrade") == ""
}

// serve serves direct writes until something else comes, or the configuration is replaced.
func (c *directConn) serve() {
	conns := &c.handler.app.direct
	defer func() {
		conns.remove(c)
		if fault := recover(); fault != nil { // as net/http does for handlers
			c.handler.logger.Error("a write failed", zap.Any("panic", fault), zap.StackSkip("stack", 1))
			_ = c.socket.Close()
		}
	}()
	conns.add(c)
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
	if c.served < c.patience {
		patience = min(2*c.patience, maxWrites)
	}
	handover.GiveBack(c.server, c.origin, slices.Clone(c.buffer[c.begin:c.end]), patience)
}

// serveAll serves what is there, and reads more. Once the configuration was replaced, it serves no more than the request
// that had begun to come.
func (c *directConn) serveAll() error {
	outcome := served
	for outcome == served {
		outcome = c.serveNext()
	}
	if err := c.flush(); err != nil {
		return err
	}
	switch {
	case outcome == final && !handover.Outlives(c.origin):
		return io.EOF // as the client was told
	case outcome == final, outcome == other, c.begin == c.end && c.over.Load():
		return errGoesBack
	}
	return c.read()
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
func (c *directConn) serveNext() outcome {
	p := bytes.TrimLeft(c.buffer[c.begin:c.end], "\r\n") // some clients send one after a body (RFC 9112, 2.2)
	c.begin = c.end - len(p)
	n := bytes.Index(p, headEnd) + len(headEnd)
	switch {
	case n > maxDirectHead, n < len(headEnd) && len(p) >= maxDirectHead:
		return other
	case n < len(headEnd):
		return partial
	}
	request, ok := c.match(p[:n])
	if !ok || int64(request.Length) > c.handler.app.MaxMessageSize {
		return other
	}
	body := p[n:]
	if len(body) < request.Length {
		return partial
	}
	producer, streamID, ok := strings.Cut(string(request.Path), "/")
	if !ok || strings.Contains(streamID, "/") || request.Key != nil && !validKey(string(request.Key)) {
		return other
	}
	m, err := NewMessage(streamID, body[:request.Length], string(request.Key))
	if err != nil || !c.handler.app.broker.PublishNow(producer, m, c.handler.app.limits) {
		return other
	}
	c.begin += n + request.Length
	c.served++
	c.last = m.at
	over := c.over.Load()
	c.out = c.reply.append(c.out, c.last, over && !handover.Outlives(c.origin))
	if over {
		return final
	}
	return served
}

// match reports false if a request is not like the others.
func (c *directConn) match(head []byte) (r repeat.Request, ok bool) {
	if c.pattern != nil {
		if r, ok = c.pattern.Match(head); ok {
			return r, true
		}
	}
	if c.pattern, ok = repeat.Learn(head, c.first, directPrefix); !ok {
		return r, false
	}
	return c.pattern.Match(head)
}

// flush sends the replies.
func (c *directConn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.writer.Write(c.out, c.timeout)
	if c.out = c.out[:0]; cap(c.out) > maxKeptDirect {
		c.out = nil
	}
	return err
}

// read reads more, or finds out that there is more time for it.
func (c *directConn) read() error {
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
	}
	return err
}

// makeRoom makes room in the buffer. It need not be larger than the largest request.
func (c *directConn) makeRoom() {
	switch {
	case c.begin == c.end:
		c.begin, c.end = 0, 0
		if len(c.buffer) < maxDirectHead || len(c.buffer) > maxKeptDirect {
			c.buffer = make([]byte, maxDirectHead)
		}
	case c.end < len(c.buffer):
	case c.begin > 0:
		c.end = copy(c.buffer, c.buffer[c.begin:c.end])
		c.begin = 0
	default:
		c.buffer = append(c.buffer, make([]byte, max(len(c.buffer), maxDirectHead))...)
	}
}

// late is called when a deadline of Read has passed. That of a request stays when the request is served, since taking
// it back would cost as much as setting it.
func (c *directConn) late() error {
	over := c.over.Load()
	if c.end > c.begin {
		if over && !c.grace { // it may be the one by which interrupt tells
			c.grace = true
			return c.arm(maxArrival, c.served)
		}
		return errGoesBack // net/http has its own limits for slow clients
	}
	idle := messageClock() - c.last
	switch {
	case over:
		return errGoesBack
	case c.idle > 0 && idle >= c.idle:
		return os.ErrDeadlineExceeded
	}
	return c.arm(c.idle-idle, -1)
}

// arm sets the deadline of Read, for the rest of a request or, if due is -1, for the begin of the next one.
func (c *directConn) arm(limit time.Duration, due int) error {
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
func (c *directConn) interrupt() {
	c.over.Store(true)
	_ = c.socket.SetReadDeadline(time.Unix(1, 0))
}

// directConns are the connections that a configuration has taken over. The zero value is ready.
type directConns struct {
	mu    sync.Mutex
	conns map[*directConn]struct{}
	over  bool
}

func (d *directConns) add(c *directConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		c.interrupt()
		return
	}
	if d.conns == nil {
		d.conns = map[*directConn]struct{}{}
	}
	d.conns[c] = struct{}{}
}

func (d *directConns) remove(c *directConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

func (d *directConns) isOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// end gives all connections back, to their servers or to those that have taken their place.
func (d *directConns) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	for c := range d.conns {
		c.interrupt()
	}
}

// A directReply is the reply to all direct writes of a connection, as net/http would send it.
type directReply struct {
	begin       []byte // up to the date
	end, hangUp []byte // after it; the latter for the last reply of a connection
	unix        int64  // the second that date is for
	date        []byte
}

// newDirectReply returns the reply with the header that was set before this handler. It reports false if the header says
// something about the connection.
func newDirectReply(header http.Header) (r directReply, ok bool) {
	for _, name := range []string{"Connection", "Content-Length", "Date", "Trailer", "Transfer-Encoding"} {
		if _, ok := header[name]; ok {
			return r, false
		}
	}
	header = header.Clone()
	setJSONHeader(header)
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 201 Created\r\n")
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("Date: ")
	r.begin = b.Bytes()
	r.end = fmt.Appendf(nil, "\r\nContent-Length: %d\r\n\r\n%s", len(statusOK), statusOK)
	r.hangUp = fmt.Appendf(nil, "\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(statusOK), statusOK)
	return r, true
}

// append appends the reply at a time on messageClock that has just come.
func (r *directReply) append(dst []byte, at time.Duration, hangUp bool) []byte {
	if second, _ := wallClock(at); second.unix != r.unix {
		r.unix, r.date = second.unix, time.Unix(second.unix, 0).UTC().AppendFormat(r.date[:0], http.TimeFormat)
	}
	dst = append(dst, r.begin...)
	dst = append(dst, r.date...)
	if hangUp {
		return append(dst, r.hangUp...)
	}
	return append(dst, r.end...)
}

package transport

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/receipt"
)

// batchHijacker hands the connection of a WebSocket over as a [batchConn].
type batchHijacker struct {
	http.ResponseWriter
	socket *WebSocket
}

// Sizes of the buffers of a connection, in bytes. What is written is collected by batchConn anyway, and clients
// send little.
const (
	readBuffer  = 512
	writeBuffer = 64
)

// Hijack implements [http.Hijacker].
func (h *batchHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	batch := newBatchConn(conn, io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn), h.socket.options)
	h.socket.out = batch
	return batch, bufio.NewReadWriter(bufio.NewReaderSize(batch, readBuffer), bufio.NewWriterSize(batch, writeBuffer)), nil
}

// A batchConn is the connection of a WebSocket. It collects messages to write them at once, each write within a time.
//
// The library closes a connection on which it cannot write a ping, or the answer to one, within five seconds. So these do
// not wait until a slow client has taken the messages before them: what is written while a goroutine writes is left to it.
type batchConn struct {
	net.Conn
	in      io.Reader
	timeout time.Duration
	below   net.Conn // see WebSocketOptions.Conn

	read, written atomic.Uint64 // bytes

	mu      sync.Mutex
	idle    sync.Cond // nobody writes any more
	holding bool      // what is written is collected until flush
	writing bool      // a goroutine writes
	frame   frame     // what is to be written next
	answers int       // how many answers to pings it has
	err     error     // of a write: there is no other after it
}

func newBatchConn(conn net.Conn, in io.Reader, o WebSocketOptions) *batchConn {
	c := &batchConn{Conn: conn, in: in, timeout: o.Timeout, below: o.Conn}
	c.idle.L = &c.mu
	return c
}

func (c *batchConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.read.Add(uint64(n)) //nolint:gosec // not negative
	return n, err
}

// hold makes the connection collect what is written until flush.
func (c *batchConn) hold() {
	c.mu.Lock()
	c.holding = true
	c.mu.Unlock()
}

// flush writes what was collected.
func (c *batchConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing { // not for long: it stops for a batch
		c.idle.Wait()
	}
	c.holding, c.writing = false, true
	c.writeNext()
	if c.err == nil && c.frame.buffer != nil {
		go func() { _ = c.drain() }() // the next flush has its error
	} else {
		c.rest()
	}
	return c.err
}

// maxControlWait is how long whoever writes a control frame waits until it is written. The frame is written all the
// same, but a connection that is closed right after it should not be closed before.
const maxControlWait = 100 * time.Millisecond

// Write implements [net.Conn]. Outside of a batch, it is for control frames.
func (c *batchConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.frame.append(p)
	if c.holding || c.writing {
		c.mu.Unlock()
		return len(p), nil
	}
	c.writing = true
	c.mu.Unlock()
	written := make(chan error, 1)
	go func() { written <- c.drain() }()
	select {
	case err := <-written:
		return len(p), err
	case <-time.After(maxControlWait):
		return len(p), nil
	}
}

// drain writes what there is to write, and what is added meanwhile, until there is a batch. The caller has set writing.
func (c *batchConn) drain() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && !c.holding && c.frame.buffer != nil {
		c.writeNext()
	}
	c.rest()
	if c.err != nil {
		_ = c.Close() // there may be nobody else who notices
	}
	return c.err
}

// writeNext writes what is next. The lock is held, but not while it writes; writing is set.
func (c *batchConn) writeNext() {
	if c.err != nil {
		return
	}
	next := c.frame
	c.frame, c.answers = frame{}, 0
	c.mu.Unlock()
	err := c.write(next.bytes())
	next.free()
	c.mu.Lock()
	c.err = err
}

// rest says that nobody writes any more. The lock is held.
func (c *batchConn) rest() {
	c.writing = false
	c.idle.Broadcast()
}

// maxAnswers is how many answers to a client's pings wait until it takes what is being written.
const maxAnswers = 32

// mayAnswer reports whether a ping of the client's is to be answered. Not each one needs to be (RFC 6455, 5.5.3), and a
// client that sends them but takes nothing should not fill the memory.
func (c *batchConn) mayAnswer() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == maxAnswers {
		return false
	}
	c.answers++
	return true
}

// write writes p, each piece within the timeout. The deadline is not left armed: TLS may have to answer what the client
// sends (RFC 8446, 4.6.3).
func (c *batchConn) write(p []byte) error {
	for len(p) > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return err
		}
		n, err := c.Conn.Write(p[:min(maxPiece, len(p))])
		c.written.Add(uint64(n)) //nolint:gosec // not negative
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return c.SetWriteDeadline(time.Time{})
}

// watch calls giveUp when nothing has moved on the connection for the timeout, or a quarter more. It returns then, or
// when ctx ends.
func (c *batchConn) watch(ctx context.Context, giveUp func()) {
	ticker := time.NewTicker(max(c.timeout/4, time.Millisecond))
	defer ticker.Stop()
	var peer *receipt.Conn
	if c.below != nil {
		peer = receipt.Of(c.below)
	}
	last, since := c.motion(peer), time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if now := c.motion(peer); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) >= c.timeout {
			giveUp()
			return
		}
	}
}

// A motion is what tells, when it changes, that the client takes or sends something.
type motion struct {
	read, written uint64
	acked         uint64 // of what is queued; 0 if nothing is, or it is not known
}

func (c *batchConn) motion(peer *receipt.Conn) motion {
	m := motion{read: c.read.Load(), written: c.written.Load()}
	if peer != nil {
		m.acked, _, _ = peer.State()
	}
	return m
}

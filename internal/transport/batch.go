package transport

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/receipt"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A batchConn writes to the connection of a WebSocket. It collects messages and writes them together. Each write has a
// timeout.
//
// control does not wait until a slow client has taken the messages before it: while a goroutine writes, callers only
// add frames, and that goroutine writes them too.
type batchConn struct {
	writer  socket.Writer
	timeout time.Duration
	below   net.Conn // see WebSocketOptions.Conn
	fault   func()   // is called when a write fails and no caller gets its error

	read atomic.Uint64 // bytes

	mu       sync.Mutex
	idle     sync.Cond // signals that nobody writes any more
	holding  bool      // everything waits for flush
	writing  bool      // a goroutine writes
	closing  bool      // a close frame was added; no frame may follow it (RFC 6455, 5.5.1)
	frame    frame     // is written next
	answers  int       // how many answers to pings frame has
	lastPing []byte    // the ping to answer after frame was written; nil if frame already has the newest answer
	err      error     // from a write; nothing is written after it
	header   [ws.MaxHeaderSize]byte
}

func newBatchConn(conn net.Conn, o WebSocketOptions, fault func()) *batchConn {
	c := &batchConn{writer: socket.NewWriter(conn), timeout: o.Timeout, below: o.Conn, fault: fault}
	c.idle.L = &c.mu
	return c
}

// message adds a message to what the next flush writes. p must not change until then, unless it is compressed.
func (c *batchConn) message(p []byte, compressed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
	h := ws.Header{OpCode: ws.OpText, Rsv: ws.Rsv(compressed, false, false)}
	switch {
	case compressed:
		c.put(h, p)
	case c.putHeader(h, len(p)):
		c.frame.add(nil, p, nil)
	}
}

// put adds a frame with a copy of its payload. The caller holds the lock.
func (c *batchConn) put(h ws.Header, payload []byte) {
	if c.putHeader(h, len(payload)) {
		c.frame.append(payload)
	}
}

// putHeader begins a frame. It reports false, and adds nothing, after a close frame. The caller holds the lock.
func (c *batchConn) putHeader(h ws.Header, size int) bool {
	if c.closing {
		return false
	}
	h.Fin, h.Length = true, int64(size)
	_ = ws.WriteHeaderBuffer(&c.frame, h, c.header[:]) // writing to a frame never fails
	return true
}

var errClosing = errors.New("the WebSocket is being closed")

// flush writes what was collected.
func (c *batchConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing { // not for long: drain stops for a batch
		c.idle.Wait()
	}
	c.holding, c.writing = false, true
	drains := false
	defer func() { // in case of a panic too
		if !drains {
			c.rest()
		}
	}()
	c.writeNext()
	if c.err == nil && !c.frame.empty() {
		drains = true
		go c.drain() // the next flush returns its error
	}
	if c.err == nil && c.closing {
		return errClosing // messages added after the close frame are lost
	}
	return c.err
}

// control writes a control frame. It does not wait until the frame is written.
func (c *batchConn) control(opcode ws.OpCode, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(ws.Header{OpCode: opcode}, payload)
	c.closing = c.closing || opcode == ws.OpClose
	if !c.holding && !c.writing && !c.frame.empty() {
		c.writing = true
		go c.drain()
	}
}

// isClosing reports whether a close frame was added.
func (c *batchConn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// settle waits until everything is written, but no longer than limit. It reports whether everything was written.
func (c *batchConn) settle(limit time.Duration) bool {
	late := false
	timer := time.AfterFunc(limit, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.idle.Broadcast()
	})
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing && !late {
		c.idle.Wait()
	}
	return !c.writing && c.err == nil
}

// drain writes what was added, and what is added meanwhile. It stops when a batch begins. The caller has set writing.
func (c *batchConn) drain() {
	defer guard.Recover(guard.WebSocket, c.fault)
	if c.drainAll() != nil {
		c.fault()
	}
}

func (c *batchConn) drainAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.rest()
	for c.err == nil && !c.holding && !c.frame.empty() {
		c.writeNext()
	}
	return c.err
}

// errPanicked is the error of a write that has panicked.
var errPanicked = errors.New("the write panicked")

// writeNext writes the frame. The caller holds the lock and has set writing. writeNext releases the lock while it
// writes.
func (c *batchConn) writeNext() {
	if c.err != nil {
		return
	}
	next := c.frame
	c.frame, c.answers = frame{}, 0
	if c.lastPing != nil {
		c.put(ws.Header{OpCode: ws.OpPong}, c.lastPing)
		c.lastPing, c.answers = nil, 1
	}
	c.mu.Unlock()
	err := errPanicked
	defer func() {
		c.mu.Lock()
		c.err = err
	}()
	err = next.writeTo(&c.writer, c.timeout)
	next.free()
}

// rest records that nobody writes any more. The caller holds the lock.
func (c *batchConn) rest() {
	if c.err != nil {
		c.frame.free() // nobody will write it
	}
	c.writing = false
	c.idle.Broadcast()
}

// maxAnswers is how many answers to pings may wait until the client takes what is being written.
const maxAnswers = 32

// answer answers a client's ping. Only the newest ping needs an answer (RFC 6455, 5.5.3). A client that sends pings and
// takes nothing must not fill the memory.
func (c *batchConn) answer(payload []byte) {
	c.mu.Lock()
	full := c.answers == maxAnswers
	if full {
		c.lastPing = append([]byte{}, payload...)
	} else {
		c.answers++
	}
	c.mu.Unlock()
	if !full {
		c.control(ws.OpPong, payload)
	}
}

// hasFailed reports whether a write has failed.
func (c *batchConn) hasFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// watch calls giveUp when nothing has moved on the connection for the timeout, or up to a quarter longer. Then it
// returns. It also returns when the ping is answered or the client is gone.
func (c *batchConn) watch(answered, gone <-chan struct{}, giveUp func()) {
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
		case <-answered:
			return
		case <-gone:
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

// A motion counts what moves on a connection. When it changes, the client has taken or sent something.
type motion struct {
	read, written uint64
	acked         uint64 // what the client's machine has acknowledged; 0 if nothing is queued or that is unknown
}

func (c *batchConn) motion(peer *receipt.Conn) motion {
	m := motion{read: c.read.Load(), written: c.writer.Written()}
	if peer != nil {
		m.acked, _, _ = peer.State()
	}
	return m
}

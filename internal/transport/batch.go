package transport

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/caddy-megaphone/megaphone/internal/receipt"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A batchConn writes to the connection of a WebSocket. It collects messages to write them at once, each write within a time.
//
// Control frames do not wait until a slow client has taken the messages before them: what is added while a goroutine writes
// is left to it.
type batchConn struct {
	writer  socket.Writer
	timeout time.Duration
	below   net.Conn // see WebSocketOptions.Conn
	fault   func()   // is called when something cannot be written of which nobody else has the error

	read atomic.Uint64 // bytes

	mu       sync.Mutex
	idle     sync.Cond // nobody writes any more
	holding  bool      // what is written is collected until flush
	writing  bool      // a goroutine writes
	closing  bool      // a close frame was added, which is the last (RFC 6455, 5.5.1)
	frame    frame     // what is to be written next
	answers  int       // how many answers to pings it has
	lastPing []byte    // is to be answered when that has been written; nil if it is there already
	err      error     // of a write: there is no other after it
	header   [ws.MaxHeaderSize]byte
}

func newBatchConn(conn net.Conn, o WebSocketOptions, fault func()) *batchConn {
	c := &batchConn{writer: socket.NewWriter(conn), timeout: o.Timeout, below: o.Conn, fault: fault}
	c.idle.L = &c.mu
	return c
}

// message adds a message to what the next flush writes. It must not change until then, unless it is compressed.
func (c *batchConn) message(p []byte, compressed bool) {
	c.mu.Lock()
	c.holding = true
	h := ws.Header{OpCode: ws.OpText, Rsv: ws.Rsv(compressed, false, false)}
	switch {
	case compressed:
		c.put(h, p)
	case c.putHeader(h, len(p)):
		c.frame.add(nil, p, nil)
	}
	c.mu.Unlock()
}

// put adds a frame with a copy of its payload. The lock is held.
func (c *batchConn) put(h ws.Header, payload []byte) {
	if c.putHeader(h, len(payload)) {
		c.frame.append(payload)
	}
}

// putHeader begins a frame, if there may be another, which it reports. The lock is held.
func (c *batchConn) putHeader(h ws.Header, size int) bool {
	if c.closing {
		return false
	}
	h.Fin, h.Length = true, int64(size)
	_ = ws.WriteHeaderBuffer(&c.frame, h, c.header[:]) // the frame takes anything
	return true
}

var errClosing = errors.New("the WebSocket is being closed")

// flush writes what was collected.
func (c *batchConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing { // not for long: it stops for a batch
		c.idle.Wait()
	}
	c.holding, c.writing = false, true
	c.writeNext()
	if c.err == nil && !c.frame.empty() {
		go c.drain() // the next flush has its error
	} else {
		c.rest()
	}
	if c.err == nil && c.closing {
		return errClosing // what was added since is nowhere
	}
	return c.err
}

// control writes a control frame, without waiting for it.
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

// settle waits until all is written, for a time at most, and reports whether it is.
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

// drain writes what there is to write, and what is added meanwhile, until there is a batch. The caller has set writing.
func (c *batchConn) drain() {
	c.mu.Lock()
	for c.err == nil && !c.holding && !c.frame.empty() {
		c.writeNext()
	}
	c.rest()
	err := c.err
	c.mu.Unlock()
	if err != nil {
		c.fault()
	}
}

// writeNext writes what is next. The lock is held, but not while it writes; writing is set.
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
	err := next.writeTo(&c.writer, c.timeout)
	next.free()
	c.mu.Lock()
	c.err = err
}

// rest says that nobody writes any more. The lock is held.
func (c *batchConn) rest() {
	if c.err != nil {
		c.frame.free() // it will not be written
	}
	c.writing = false
	c.idle.Broadcast()
}

// maxAnswers is how many answers to a client's pings wait until it takes what is being written.
const maxAnswers = 32

// answer answers a ping of the client's. Not each one needs to be answered, but the newest (RFC 6455, 5.5.3); a client that
// sends them but takes nothing should not fill the memory.
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

// hasFailed reports whether something could not be written.
func (c *batchConn) hasFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// watch calls giveUp when nothing has moved on the connection for the timeout, or a quarter more. It returns then, or
// when a ping is answered or the client is gone.
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

// A motion is what tells, when it changes, that the client takes or sends something.
type motion struct {
	read, written uint64
	acked         uint64 // of what is queued; 0 if nothing is, or it is not known
}

func (c *batchConn) motion(peer *receipt.Conn) motion {
	m := motion{read: c.read.Load(), written: c.writer.Written()}
	if peer != nil {
		m.acked, _, _ = peer.State()
	}
	return m
}

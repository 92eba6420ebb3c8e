package direct

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// read reads more from the connection. It also returns nil if the deadline has passed and there is more
// time, and if a reply is owed.
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
	case n > 0, c.later.owed: // if Read has failed, it will again, after the reply
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.deadlinePassed()
	case errors.Is(err, io.EOF) && c.end > c.begin:
		return errGoesBack // the client may still wait for net/http's reply to half a request
	}
	return err
}

// deadlinePassed decides what happens after a deadline of Read has passed. The deadline for the rest of a request stays
// when the request is served: to remove it would cost as much as to set it.
func (c *producerConn) deadlinePassed() error {
	over := c.over.Load()
	if c.end > c.begin {
		if over && !c.grace { // this may be the deadline that interrupt has set
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

// arm sets the deadline of Read: for the rest of the request with the number due, or for the beginning of the next request
// if due is -1.
func (c *producerConn) arm(limit time.Duration, due int) error {
	var deadline time.Time
	if due >= 0 || c.idle > 0 {
		deadline = time.Now().Add(limit)
	}
	c.due = due
	err := c.socket.SetReadDeadline(deadline)
	if due < 0 && c.over.Load() {
		c.interrupt() // SetReadDeadline may have replaced the deadline that interrupt had set
	}
	return err
}

// makeRoom makes room in the buffer: for the whole request if its length is known, up to httpjson.MaxKeptBody. A request
// that claims to be larger gets more room only as it arrives.
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

// largeBuffers are the buffers for more than maxKept and at most httpjson.MaxKeptBody bytes.
var largeBuffers = sync.Pool{New: func() any { return new([httpjson.MaxKeptBody]byte) }}

// resize moves what is in the buffer to a buffer of another size, which may become larger than asked for.
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

package load

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"time"
)

// Mark is in the body of every message exactly once, and nowhere else in a stream. The Counter counts marks.
const Mark = '~'

// stampLength is the number of digits of a Stamp.
const stampLength = 19

var epoch = time.Now()

// Stamp returns the time in digits. It must be right after the mark in a message's body.
func Stamp() string { return fmt.Sprintf("%0*d", stampLength, time.Since(epoch)) }

// A Counter counts the messages that arrive on any number of streams. It also keeps how long stamped messages took.
type Counter struct {
	n       atomic.Int64
	Stamped bool
	took    chan time.Duration
}

// NewCounter returns a counter for messages without stamps.
func NewCounter() *Counter { return new(Counter) }

// NewStopwatch returns a counter for messages with stamps. It keeps the times of at most that many messages.
func NewStopwatch(messages int) *Counter {
	return &Counter{Stamped: true, took: make(chan time.Duration, messages)}
}

// N returns the number of messages that have arrived.
func (c *Counter) N() int64 { return c.n.Load() }

// Took returns how long the stamped messages took, and forgets these times.
func (c *Counter) Took() []time.Duration {
	all := make([]time.Duration, 0, len(c.took))
	for len(c.took) > 0 {
		all = append(all, <-c.took)
	}
	return all
}

// Stream sends a request whose response is a stream, and waits for its header. It counts the stream's messages in the
// background until the connection is closed.
func (c *Conn) Stream(r Request, counter *Counter) error {
	if err := c.Open(r); err != nil {
		return err
	}
	go counter.count(c)
	return nil
}

// Open sends a request whose response is a stream, and reads its header.
func (c *Conn) Open(r Request) error {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Write(r); err != nil {
		return err
	}
	head, err := c.head()
	if err != nil {
		return fmt.Errorf("reading the header of a stream: %w", err)
	}
	if status := string(c.buffer[9:12]); status != "200" && status != "101" {
		return fmt.Errorf("a stream was refused: %q", c.buffer[:c.read])
	}
	c.read = copy(c.buffer, c.buffer[head:c.read])
	return c.SetReadDeadline(time.Time{})
}

// count reads a stream to its end.
func (c *Counter) count(conn *Conn) {
	if !c.Stamped {
		for {
			c.add(conn.buffer[:conn.read])
			n, err := conn.Read(conn.buffer)
			if conn.read = n; err != nil {
				return
			}
		}
	}
	for {
		unread := c.addStamped(conn.buffer[:conn.read])
		conn.read = copy(conn.buffer, conn.buffer[conn.read-unread:conn.read])
		if err := conn.more(); err != nil {
			return
		}
	}
}

func (c *Counter) add(p []byte) {
	if n := bytes.Count(p, []byte{Mark}); n > 0 {
		c.n.Add(int64(n))
	}
}

// addStamped counts the messages in p. It returns how many bytes at the end of p may be the beginning of a stamp.
func (c *Counter) addStamped(p []byte) (unread int) {
	now := time.Since(epoch)
	for {
		i := bytes.IndexByte(p, Mark)
		if i < 0 {
			return 0
		}
		if p = p[i:]; len(p) <= stampLength {
			return len(p)
		}
		var sent time.Duration
		for _, digit := range p[1 : stampLength+1] {
			sent = 10*sent + time.Duration(digit-'0')
		}
		c.n.Add(1)
		select {
		case c.took <- now - sent:
		default: // more messages than expected: the count shows it
		}
		p = p[stampLength+1:]
	}
}

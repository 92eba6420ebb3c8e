package direct

import (
	"context"
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/handover"
)

// publish gives the Broker a message that it has not taken at once, waits until it has decided, and replies. Replies to
// earlier requests go out first: the client may wait for them.
func (c *producerConn) publish(producer string, m *broker.Message) outcome {
	if c.err = c.flush(); c.err != nil {
		return broken
	}
	if c.publishThen(producer, m) {
		return waits
	}
	c.site.Waits.Add(1)
	defer c.site.Waits.Add(-1) // also if the Broker panics
	err := c.wait(producer, m)
	return c.send(c.compose(producer, c.watch.request, err))
}

// compose appends the reply to a write with this outcome. It returns what becomes of the connection when that is sent. If err
// is not nil, r is a request whose context has ended if the client is gone.
func (c *producerConn) compose(producer string, r *http.Request, err error) outcome {
	c.last = clock.Now()
	over := c.over.Load()
	last, closes := over && !handover.Outlives(c.origin), false
	if err == nil {
		c.out = c.reply.append(c.out, c.last, last)
	} else {
		closes = c.refuse(producer, r, err, last)
	}
	switch {
	case closes:
		return closing
	case over:
		return final
	}
	return served
}

// send sends the replies. It returns o unless that fails.
func (c *producerConn) send(o outcome) outcome {
	if c.err = c.flush(); c.err != nil {
		return broken
	}
	return o
}

// refuse replies to a write that was refused, by the code that does so for net/http. It reports whether that ends the
// connection.
func (c *producerConn) refuse(producer string, r *http.Request, err error, last bool) (closes bool) {
	w := &recorder{header: c.reply.header.Clone()}
	c.site.Refuse(w, r, producer, err)
	closes = w.header.Get("Connection") == "close"
	c.out = c.reply.appendRecorded(c.out, w, c.last, last)
	return closes
}

// wait calls Publish. While that waits, the connection is watched: if the client goes, the write is withdrawn.
func (c *producerConn) wait(producer string, m *broker.Message) error {
	if c.end == len(c.buffer) {
		c.makeRoom() // for the watch
	}
	w := &c.watch
	w.begin(c)
	defer w.end(c)
	return c.site.Broker.Publish(w.request.Context(), producer, m, c.site.Limits)
}

// unwatched is how long a write waits before its connection is watched. Most writes wait for a store that answers sooner,
// and to watch costs as much as they do.
const unwatched = 10 * time.Millisecond

// A watch notices that the client goes while its write waits. It reads from the connection, as net/http does then. So once
// it has read the beginning of a later request, it notices nothing more.
type watch struct {
	request *http.Request // a request of the connection. Its context ends when the client has gone
	gone    context.CancelFunc
	timer   *time.Timer
	ended   chan struct{} // receives when the watch has stopped reading

	mu      sync.Mutex
	waits   bool // between begin and end
	reading bool
	read    int // how many bytes were read into the buffer
}

// begin begins to watch soon. The caller must call end.
func (w *watch) begin(c *producerConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits = true
	if w.timer != nil {
		w.timer.Reset(unwatched)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.request, w.gone = c.first.WithContext(ctx), cancel
	w.ended = make(chan struct{}, 1)
	w.timer = time.AfterFunc(unwatched, func() {
		defer guard.Recover(guard.DirectWrite, cancel)
		w.run(c)
	})
}

// run reads once.
func (w *watch) run(c *producerConn) {
	w.mu.Lock()
	if !w.waits || w.reading {
		w.mu.Unlock() // the write has ended just when the timer did
		return
	}
	w.reading = true
	room := c.buffer[c.end:]
	w.mu.Unlock()
	defer func() { w.ended <- struct{}{} }()
	for w.await(c) {
		n, err := c.socket.Read(room)
		w.noteRead(n)
		switch {
		case n > 0:
			return
		case !errors.Is(err, os.ErrDeadlineExceeded):
			w.gone()
			return
		}
	}
}

// await removes the deadline for reading, unless the watch has ended. The deadline was for the next request, or interrupt
// has set it: the write goes on.
func (w *watch) await(c *producerConn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waits && c.socket.SetReadDeadline(time.Time{}) == nil
}

func (w *watch) noteRead(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read = n
}

// end ends the watch. What it has read stands behind the rest of the buffer.
func (w *watch) end(c *producerConn) {
	w.timer.Stop()
	w.mu.Lock()
	w.waits = false
	reading := w.reading
	w.mu.Unlock()
	if !reading {
		return
	}
	_ = c.socket.SetReadDeadline(time.Unix(1, 0)) // fails if the connection has: then nobody reads
	<-w.ended
	w.mu.Lock()
	c.end += w.read
	w.reading, w.read = false, 0
	w.mu.Unlock()
	_ = c.arm(c.idle, -1)
}

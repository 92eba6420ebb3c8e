package direct

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A Broker with a store makes messages durable many at a time ([broker.Continuer]). If each connection waited for that, each
// write would wake its goroutine twice: once when the request comes, and once to reply. So the Broker's goroutines send the
// replies, while serve waits for the next request already.

// later is the reply to a connection's last write, while it is owed. From publishThen to settle, Published has the
// connection's writer, reply, out, last and err to itself. It leaves the rest to serve.
type later struct {
	owed     bool // only serve uses it
	producer string
	outcome  chan outcome // receives a value when the reply was sent
}

// publishThen gives the Broker a message whose reply Published sends. It reports whether the Broker takes it.
func (c *producerConn) publishThen(producer string, m *broker.Message) bool {
	b, ok := c.site.Broker.(broker.Continuer)
	if !ok {
		return false
	}
	if c.later.outcome == nil {
		c.later.outcome = make(chan outcome, 1)
	}
	c.later.producer = producer
	c.site.Waits.Add(1)
	defer func() {
		if !c.later.owed { // also if the Broker panics
			c.site.Waits.Add(-1)
		}
	}()
	c.later.owed = b.PublishThen(producer, m, c.site.Limits, c)
	return c.later.owed
}

// settle waits until the reply that is owed was sent, if one is, and returns what becomes of the connection. The Broker
// bounds the wait for the outcome, and the writer that for the client.
func (c *producerConn) settle() outcome {
	if !c.later.owed {
		return served
	}
	c.later.owed = false
	return <-c.later.outcome
}

// Published implements [broker.Continuation].
func (c *producerConn) Published(err error) { c.finish(func() outcome { return c.answer(err) }) }

// answer sends the reply, or leaves that to a goroutine of its own if it may take time. Then it returns waits.
func (c *producerConn) answer(err error) outcome {
	if err != nil { // the handler's code replies
		r := c.first.WithContext(context.Background())
		go c.finish(func() outcome { return c.send(c.compose(c.later.producer, r, err)) })
		return waits
	}
	o := c.compose(c.later.producer, nil, nil)
	n, err := c.writer.TryWrite(c.out)
	if err != nil {
		c.err = err
		return broken
	}
	if c.out = c.out[:copy(c.out, c.out[n:])]; len(c.out) > 0 { // the client takes no replies
		go c.finish(func() outcome { return c.send(o) })
		return waits
	}
	return o
}

// errPanicked says that a reply could not be sent because of a panic.
var errPanicked = errors.New("the reply was not sent: panic")

// finish calls send, which sends the reply, and tells serve of the outcome unless that is waits.
func (c *producerConn) finish(send func() outcome) {
	o := broken // if send panics
	defer func() {
		if o == waits {
			return
		}
		c.site.Waits.Add(-1)
		if o == broken || o == closing {
			_ = c.socket.SetReadDeadline(time.Unix(1, 0)) // serve may wait for a request
		}
		c.later.outcome <- o
	}()
	defer guard.Recover(guard.DirectWrite, func() { c.err = errPanicked })
	o = send()
}

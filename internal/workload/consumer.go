package workload

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// consume reads the channel until ctx ends, however often it must begin again.
func (s *session) consume(ctx context.Context, random *rand.Rand) {
	if s.Reading != nil {
		select {
		case <-s.Reading:
		case <-ctx.Done():
		}
	}
	c := &consumer{session: s, rand: random}
	for ctx.Err() == nil {
		before := c.received
		if s.transport == "websocket" {
			c.readSocket(ctx)
		} else {
			c.read(ctx)
		}
		if c.received == before { // nothing came, or a server is down
			time.Sleep(10 * time.Millisecond)
		}
		if s.Topics > 0 && !c.hurries() && random.IntN(2) == 0 && ctx.Err() == nil { // its channel becomes full
			time.Sleep(time.Duration(random.Int64N(int64(20 * s.Pause))))
		}
	}
}

type consumer struct {
	*session

	rand     *rand.Rand
	cursor   string
	received int
	left     int // messages until the consumer breaks off
}

// begin draws after how many messages the consumer breaks off the read that begins now. Plain readers never do: what
// they have not read by then would be lost with their machine.
func (c *consumer) begin() {
	c.left = -1
	if c.transport != "ndjson" {
		c.left = 1 + c.rand.IntN(200)
	}
	if c.left > 0 && c.hurries() {
		c.left *= 100
	}
}

// hurries reports whether the consumer has to hurry: its producers have ended, and its channel, which has come back to topics again
// and again, may hold many times what these keep. Run does not wait for it long.
func (s *session) hurries() bool { return s.habit == returning && s.writing.Err() != nil }

// receive records a line. It reports whether the consumer goes on.
func (c *consumer) receive(line []byte) bool {
	var m struct {
		EID, SID, Body, End string
		Missed              int
	}
	if json.Unmarshal(line, &m) != nil {
		return false // the connection broke in the middle of a line
	}
	d := history.Delivery{Channel: c.name, EventID: m.EID, Missed: m.Missed, End: m.End}
	if m.End != "" {
		d.Value = m.SID
	} else {
		d.Value, d.Appended = pieces(m.Body)
	}
	c.Deliver(d)
	c.cursor = m.EID
	c.received++
	c.left--
	return c.left != 0
}

// read reads over HTTP, once.
func (c *consumer) read(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx) // breaks off
	defer cancel()
	c.begin()
	query := "?after=" + c.cursor
	switch c.transport {
	case "ndjson":
		query = ""
	case "poll":
		query += "&poll=1s"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Base()+"/read/"+c.consumerAddress+query, http.NoBody)
	if err != nil {
		return
	}
	if c.transport == "sse" {
		r.Header.Set("Accept", "text/event-stream")
	}
	response, err := c.HTTP.Do(r)
	if err != nil {
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return
	}
	if c.Topics > 0 && c.transport != "ndjson" && c.rand.IntN(4) == 0 {
		return // it dies before it has seen anything
	}
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		if c.transport == "sse" {
			data, ok := bytes.CutPrefix(line, []byte("data: "))
			if !ok {
				continue
			}
			line = data
		}
		if !c.receive(line) {
			return
		}
	}
}

// readSocket reads over a WebSocket, once. It acknowledges now and then, but always before the window is full.
func (c *consumer) readSocket(ctx context.Context) {
	c.begin()
	dialing, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	conn, response, err := websocket.Dial(dialing, c.Base()+"/read/"+c.consumerAddress+"?after="+c.cursor, &websocket.DialOptions{HTTPClient: c.HTTP})
	if err != nil {
		return
	}
	if response != nil && response.Body != nil {
		defer response.Body.Close()
	}
	defer func() { _ = conn.CloseNow() }()
	for unacknowledged := 0; ; {
		_, text, err := conn.Read(ctx)
		if err != nil || !c.receive(text) {
			return
		}
		if unacknowledged++; unacknowledged < 1+c.rand.IntN(20) {
			continue
		}
		unacknowledged = 0
		if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"ack":%q}`, c.cursor)); err != nil {
			return
		}
	}
}

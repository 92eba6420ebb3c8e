package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long anything may take that should take a moment, on a machine that is busy with other things.
const patience = 30 * time.Second

// A client talks to a site of a server as backends and consumers do.
type client struct {
	tb   testing.TB
	http *http.Client
	base string // of all URLs

	again atomic.Int64 // how many requests insist has sent again
}

// A channel has the addresses of a channel.
type channel struct {
	ProducerAddress, ConsumerAddress string
}

// A message is a line of a read.
type message struct {
	SID, EID, TS string
	Body         json.RawMessage
}

// do sends a request and returns as soon as the header of its reply is there.
func (c *client) do(ctx context.Context, method, path string, header http.Header, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(r.Header, header)
	return c.http.Do(r)
}

// post posts JSON, and returns the reply's status and text.
func (c *client) post(path, body string) (status int, text string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	response, err := c.do(ctx, http.MethodPost, path, http.Header{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	return response.StatusCode, string(reply), err
}

func (c *client) create() channel {
	c.tb.Helper()
	status, text, err := c.post("/create", "")
	var created channel
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(text), &created) != nil {
		c.tb.Fatalf("create: %d %s %v", status, text, err)
	}
	return created
}

// write writes a message, which must be accepted.
func (c *client) write(to channel, body string) {
	c.tb.Helper()
	if status, text, err := c.post("/write/"+to.ProducerAddress+"/s", body); err != nil || status != http.StatusCreated {
		c.tb.Fatalf("write: %d %s %v", status, text, err)
	}
}

// A consumer reads a channel as existing clients do, and drops repeats. The bodies of the messages are the numbers
// from 0 on: anything else is a message lost, or out of order.
type consumer struct {
	seen map[string]bool
	next int
}

func newConsumer() *consumer { return &consumer{seen: map[string]bool{}} }

// receive takes one line.
func (c *consumer) receive(line []byte) error {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("line %q: %w", line, err)
	}
	if c.seen[m.EID] {
		return nil
	}
	c.seen[m.EID] = true
	if string(m.Body) != fmt.Sprint(c.next) {
		return fmt.Errorf("message %s instead of %d", m.Body, c.next)
	}
	c.next++
	return nil
}

// readToEnd receives the lines of a response. An end that is not clean, or in the middle of a line, is an error.
func (c *consumer) readToEnd(lines *bufio.Reader) error {
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %q: %w", line, err)
		}
		if err := c.receive(line); err != nil {
			return err
		}
	}
}

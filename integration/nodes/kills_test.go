package nodes

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// A batcher writes numbered messages to one channel, many in a request, each request after the reply to the last one.
type batcher struct {
	*cluster
	*history.Recorder

	name               string
	producer, consumer string
	keyed              bool   // repeats what was not accepted
	filler             string // makes messages long
}

// newBatcher creates a channel.
func newBatcher(c *cluster, r *history.Recorder, url, name string) *batcher {
	c.Helper()
	b := &batcher{cluster: c, Recorder: r, name: name}
	channel := c.create(url)
	b.producer, b.consumer = channel.ProducerAddress, channel.ConsumerAddress
	return b
}

// write writes messages, from a number on, in one request to a node. It returns how many were accepted.
func (b *batcher) write(ctx context.Context, url string, first, count int) (accepted int) {
	start := b.Now()
	var body bytes.Buffer
	fmt.Fprintf(&body, `{"channels":[%q],"messages":[`, b.producer)
	for i := range count {
		if i > 0 {
			body.WriteByte(',')
		}
		key := ""
		if b.keyed {
			key = fmt.Sprintf(`,"key":"%d"`, first+i)
		}
		fmt.Fprintf(&body, `{"streamId":"s"%s,"body":{"value":%q,"filler":%q}}`, key, b.value(first+i), b.filler)
	}
	body.WriteString(`]}`)
	outcomes, detail := make([]history.Outcome, count), "" // unknown
	failures, err := b.post(ctx, url+"/write-batch", &body)
	if err != nil {
		detail = err.Error()
	} else {
		for i := range outcomes {
			outcomes[i] = history.Accepted
		}
		for _, f := range failures {
			detail = f.Reason
			outcomes[f.Index] = history.Refused
			if f.Reason == "TIMEOUT" || f.Reason == "INTERNAL_SERVER_ERROR" {
				outcomes[f.Index] = history.Unknown
			}
		}
	}
	for i, outcome := range outcomes {
		if outcome == history.Accepted {
			accepted++
		}
		b.Write(history.Write{Channel: b.name, Value: b.value(first + i), Keyed: b.keyed, Start: start, Outcome: outcome, Detail: detail})
	}
	return accepted
}

func (b *batcher) value(n int) string { return fmt.Sprintf("%s-%d", b.name, n) }

type failure struct {
	Reason string
	Index  int
}

func (b *batcher) post(ctx context.Context, url string, body io.Reader) ([]failure, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := b.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	var reply struct{ Failures []failure }
	if err == nil {
		err = json.Unmarshal(text, &reply)
	}
	if err != nil || response.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%s: %s %w", response.Status, text, err)
	}
	return reply.Failures, nil
}

// read reads the channel with a cursor until ctx ends, each time from the server that url names.
func (b *batcher) read(ctx context.Context, url func() string) {
	cursor := ""
	for ctx.Err() == nil {
		cursor = b.readOnce(ctx, url(), cursor)
	}
}

func (b *batcher) readOnce(ctx context.Context, url, cursor string) (last string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/read/"+b.consumer+"?after="+cursor, http.NoBody)
	if err != nil {
		return cursor
	}
	response, err := b.http.Do(r)
	if err != nil {
		time.Sleep(5 * time.Millisecond) // a server is down
		return cursor
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadBytes('\n')
		var m struct {
			EID  string
			Body struct{ Value string }
		}
		if err != nil || json.Unmarshal(line, &m) != nil {
			return cursor
		}
		b.Deliver(history.Delivery{Channel: b.name, EventID: m.EID, Value: m.Body.Value})
		cursor = m.EID
	}
}

// settles waits until everything that was accepted has arrived, and checks the history.
func settles(t *testing.T, r *history.Recorder, accepted int) {
	t.Helper()
	for limit := time.Now().Add(patience); r.Missing() > 0 && time.Now().Before(limit); {
		time.Sleep(5 * time.Millisecond)
	}
	workload.Check(t, r.History(), accepted)
}

// TestTheReadersNodeIsKilled kills the node of all readers again and again, while others write 10,000 messages a second, or as
// many as the machine can do. Writes to another node do not notice, and no message is lost or out of order.
func TestTheReadersNodeIsKilled(t *testing.T) {
	const (
		channels, batch, messages = 20, 50, 100_000
		rate                      = 10_000 // a second
		kills                     = 13
	)
	c := newCluster(t, newStore(t), 3, "500ms", "read_duration 20s\nbuffer 5000\nin_flight 500", "")
	r := history.NewRecorder()
	var current atomic.Int32 // the node of the readers; 0 is that of the producers
	current.Store(1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers, writers sync.WaitGroup
	var accepted atomic.Int64
	start := time.Now()
	for i := range channels {
		b := newBatcher(c, r, c.nodes[0].url(), fmt.Sprint(i))
		b.filler = strings.Repeat("x", 200)
		readers.Go(func() { b.read(ctx, func() string { return c.nodes[current.Load()].url() }) })
		writers.Go(func() {
			for n := 0; n < messages/channels; n += batch {
				time.Sleep(time.Until(start.Add(time.Duration(n) * channels * time.Second / rate)))
				accepted.Add(int64(b.write(ctx, c.nodes[0].url(), n, batch)))
			}
		})
	}
	written := make(chan time.Duration, 1)
	go func() {
		writers.Wait()
		written <- time.Since(start)
	}()
	for kill := 1; kill <= kills; kill++ {
		for accepted.Load() < int64(kill*messages/(kills+1)) && time.Since(start) < patience {
			time.Sleep(time.Millisecond)
		}
		i := current.Load()
		r.Fault(fmt.Sprintf("kill -9 of node %d", i), 0, func() {
			current.Store(3 - i)
			c.nodes[i].Kill()
		})
		c.nodes[i].start()
	}
	took := <-written
	t.Logf("%d messages were accepted in %v: %.0f a second", accepted.Load(), took, float64(accepted.Load())/took.Seconds())
	settles(t, r, messages) // all of them: producers notice nothing
	stop()
	readers.Wait()
}

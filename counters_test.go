package megaphone_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// A crowd is producers and consumers that use channels at random. It counts what they know.
type crowd struct {
	*server

	created, written atomic.Int64 // channels, and messages that were accepted

	mu       sync.Mutex
	channels []channel // those in use

	stop chan struct{}
	all  sync.WaitGroup
}

// run calls a function again and again until the crowd goes.
func (w *crowd) run(f func()) {
	w.all.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			default:
				f()
			}
		}
	})
}

// end stops everything, and waits until it has stopped.
func (w *crowd) end() {
	close(w.stop)
	w.all.Wait()
}

// addChannel creates a channel. If there are many, it abandons the oldest one, which then expires with the messages in it.
func (w *crowd) addChannel() {
	c := w.create()
	w.created.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.channels = append(w.channels, c); len(w.channels) > 15 {
		w.channels = w.channels[1:]
	}
}

// pick returns one of the channels in use.
func (w *crowd) pick() channel {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.channels[rand.N(len(w.channels))]
}

func (w *crowd) writeOne() {
	if w.tryWrite(w.pick(), `"`+strings.Repeat("x", rand.N(2000))+`"`).StatusCode == http.StatusCreated {
		w.written.Add(1)
	}
}

// writeBatch writes two messages to one or two channels.
func (w *crowd) writeBatch() {
	a, b := w.pick(), w.pick()
	r := w.post("/write-batch", fmt.Sprintf(`{"channels":[%q,%q],"messages":[{"streamId":"s","body":1},{"streamId":"s","body":2}]}`,
		a.ProducerAddress, b.ProducerAddress))
	n := 4
	if a == b {
		n = 2
	}
	w.written.Add(int64(n - strings.Count(r.body, `"index"`)))
}

// readAll reads a channel until the read ends.
func (w *crowd) readAll() {
	response := w.open(http.MethodGet, w.pick().readPath(), nil, nil)
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

// readAndAbort reads a channel and goes away in the middle.
func (w *crowd) readAndAbort() {
	response := w.open(http.MethodGet, w.pick().readPath(), nil, nil)
	_, _ = response.Body.Read(make([]byte, 100))
	response.Body.Close()
}

// pollWithCursor polls a channel several times, each time after the last message of the poll before.
func (w *crowd) pollWithCursor() {
	c, cursor := w.pick(), ""
	for range 5 {
		lines := strings.Split(strings.TrimSpace(w.get(c.readPath()+"?poll=10ms&after="+cursor).body), "\n")
		var m message
		if json.Unmarshal([]byte(lines[len(lines)-1]), &m) == nil && m.EID != "" {
			cursor = m.EID
		}
	}
}

// TestCountersAddUp checks that every message that was accepted is settled or counted as undelivered in the end, and that
// no other message is. Producers, consumers, reloads and expiry run at the same time.
func TestCountersAddUp(t *testing.T) {
	const settings = "megaphone {\nbuffer 5\nin_flight 3\nhold 50ms\nttl 300ms\nread_duration 150ms\nmax_memory 100KB\n}"
	w := &crowd{server: serve(t, settings, "megaphone"), stop: make(chan struct{})}
	// A reload closes idle connections. If a client has just sent a write on one, it cannot know whether it was accepted.
	w.client.Transport.(*http.Transport).DisableKeepAlives = true
	for range 10 {
		w.addChannel()
	}
	w.run(func() { w.addChannel(); time.Sleep(10 * time.Millisecond) })
	for range 3 {
		w.run(w.writeOne)
	}
	w.run(w.writeBatch)
	w.run(w.readAll)
	w.run(w.readAndAbort)
	for range 2 {
		w.run(w.pollWithCursor)
	}
	for range 3 {
		time.Sleep(workload.Duration(t, 300*time.Millisecond) / 3)
		w.reload(settings, "megaphone")
	}
	w.end()
	w.awaitMetric("caddy_megaphone_channels", "", func(n float64) bool { return n == 0 })
	w.check()
	w.awaitMetric("caddy_megaphone_held_producers", "", func(n float64) bool { return n == 0 })
}

// check compares the metrics with each other, and with what the crowd has counted. All channels must have expired.
func (w *crowd) check() {
	w.Helper()
	metrics := w.metrics()
	total := func(name string) (sum float64) {
		for key, value := range metrics {
			if strings.HasPrefix(key, "caddy_megaphone_"+name+"{") {
				sum += value
			}
		}
		return sum
	}
	accepted, settled, undelivered := total("messages_accepted_total"), total("messages_settled_total"), total("messages_undelivered_total")
	if accepted != settled+undelivered || int64(accepted) != w.written.Load() || settled == 0 || undelivered == 0 {
		w.Errorf("accepted %v (%d according to the producers), settled %v, undelivered %v", accepted, w.written.Load(), settled, undelivered)
	}
	created, deleted := total("channels_created_total"), total("channels_deleted_total")
	if deleted != float64(w.created.Load()) || deleted != created || deleted != total("channel_life_seconds") {
		w.Errorf("%d channels were created according to the producers; created %v, deleted %v, lives %v",
			w.created.Load(), created, deleted, total("channel_life_seconds"))
	}
	for _, name := range []string{"messages_pending", "messages_in_flight", "buffered_bytes", "held_bytes", "channels_read", "readers"} {
		if n := total(name); n != 0 {
			w.Errorf("%s is %v in the end, want 0", name, n)
		}
	}
	w.Logf("accepted %v, settled %v, undelivered %v, redelivered %v, refused %v", accepted, settled, undelivered,
		total("messages_redelivered_total"), total("messages_refused_total"))
}

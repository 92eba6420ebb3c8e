package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/coder/websocket"
)

// BenchmarkIdleReaders reports what an idle reader costs the server: goroutines, and KB of heap and stacks.
func BenchmarkIdleReaders(b *testing.B) {
	const readers = 500
	for name, connect := range map[string]func(ctx context.Context, n *network, c *http.Client, ch channel) (io.Closer, error){
		"sse": func(ctx context.Context, n *network, c *http.Client, ch channel) (io.Closer, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.http+"/read/"+ch.ConsumerAddress, nil)
			if err != nil {
				return nil, err
			}
			r.Header.Set("Accept", "text/event-stream")
			response, err := c.Do(r)
			if err != nil {
				return nil, err
			}
			return response.Body, nil
		},
		"websocket": func(ctx context.Context, n *network, c *http.Client, ch channel) (io.Closer, error) {
			conn, _, err := websocket.Dial(ctx, n.http+"/read/"+ch.ConsumerAddress, &websocket.DialOptions{HTTPClient: c})
			return closer(func() error { return conn.CloseNow() }), err
		},
	} {
		b.Run(name, func(b *testing.B) {
			n := newNetwork(b, "")
			client := &http.Client{Transport: &http.Transport{}}
			for b.Loop() {
				goroutines, memory := n.usage(b)
				var open []io.Closer
				for range readers {
					c, err := connect(b.Context(), n, client, n.create(b))
					if err != nil {
						b.Fatal(err)
					}
					open = append(open, c)
				}
				moreGoroutines, moreMemory := n.usage(b)
				for _, c := range open {
					_ = c.Close()
				}
				b.ReportMetric((moreGoroutines-goroutines)/readers, "goroutines/reader")
				b.ReportMetric((moreMemory-memory)/readers/1024, "KB/reader")
			}
		})
	}
}

type closer func() error

func (c closer) Close() error { return c() }

// usage collects garbage in the server. Then it returns the server's goroutines, and its bytes of heap and stacks.
func (n *network) usage(tb testing.TB) (goroutines, memory float64) {
	tb.Helper()
	admin := n.Admin()
	fetch(tb, admin, "http://localhost/debug/pprof/heap?gc=1")
	metrics := fetch(tb, admin, "http://localhost/metrics")
	return metric(tb, metrics, "go_goroutines"),
		metric(tb, metrics, "go_memstats_heap_alloc_bytes") + metric(tb, metrics, "go_memstats_stack_inuse_bytes")
}

// metric returns the value of a metric without labels.
func metric(tb testing.TB, metrics []byte, name string) float64 {
	tb.Helper()
	match := regexp.MustCompile(`(?m)^` + name + ` (.*)$`).FindSubmatch(metrics)
	if match == nil {
		tb.Fatalf("there is no metric %s", name)
	}
	v, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		tb.Fatal(fmt.Errorf("%s: %w", name, err))
	}
	return v
}

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

// BenchmarkIdleReaders reports what a reader costs the server that gets no message: goroutines, and KB of heap and stacks.
func BenchmarkIdleReaders(b *testing.B) {
	const readers = 500
	for name, connect := range map[string]func(ctx context.Context, n *network, c *http.Client, m mailbox) (io.Closer, error){
		"sse": func(ctx context.Context, n *network, c *http.Client, m mailbox) (io.Closer, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.http+"/read/"+m.ConsumerAddress, nil)
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
		"websocket": func(ctx context.Context, n *network, c *http.Client, m mailbox) (io.Closer, error) {
			conn, _, err := websocket.Dial(ctx, n.http+"/read/"+m.ConsumerAddress, &websocket.DialOptions{HTTPClient: c})
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

// usage returns the server's goroutines, and bytes of heap and stacks, after a collection of garbage.
func (n *network) usage(tb testing.TB) (goroutines, memory float64) {
	tb.Helper()
	get := func(path string) string {
		response, err := n.Admin().Get("http://localhost" + path)
		if err != nil {
			tb.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			tb.Fatalf("%s: %s %v", path, response.Status, err)
		}
		return string(text)
	}
	get("/debug/pprof/heap?gc=1")
	metrics := get("/metrics")
	value := func(name string) float64 {
		match := regexp.MustCompile(`(?m)^` + name + ` (.*)$`).FindStringSubmatch(metrics)
		if match == nil {
			tb.Fatalf("there is no metric %s", name)
		}
		v, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			tb.Fatal(fmt.Errorf("%s: %w", name, err))
		}
		return v
	}
	return value("go_goroutines"), value("go_memstats_heap_alloc_bytes") + value("go_memstats_stack_inuse_bytes")
}

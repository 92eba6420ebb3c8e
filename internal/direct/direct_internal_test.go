package direct

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
)

// writer returns a function that serves one direct write to a channel, with a body of size bytes, and reads the message.
func writer(tb testing.TB, size int) func() {
	tb.Helper()
	b := memory.New()
	tb.Cleanup(b.Close)
	a, err := b.Create(tb.Context(), "main", brokerfixture.Limits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := b.Subscribe(tb.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
	if err != nil {
		tb.Fatal(err)
	}
	reply, _ := newReply(http.Header{"Server": {"Caddy"}})
	client := &repeatingConn{request: fmt.Appendf(nil, "POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n\"%0*d\"", a.Producer, size, size-2, 0)}
	c := &producerConn{
		site: NewSite(Options{MaxMessageSize: 1 << 20, Limits: brokerfixture.Limits, Broker: b}),
		first: &http.Request{
			Method: http.MethodPost, Host: "localhost", Proto: "HTTP/1.1",
			Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(size)}},
		},
		reply: reply, socket: client, sampleIn: math.MaxInt,
	}
	var ms []*broker.Message
	taken := 0
	return func() {
		c.out = c.out[:0]
		for outcome := c.serveNext(); outcome != served; outcome = c.serveNext() {
			if err := c.read(); err != nil || outcome != partial {
				tb.Fatal("the write was not served:", outcome, err)
			}
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], delivery.MaxTake)
		taken += len(ms)
		sub.Received(taken)
	}
}

// A repeatingConn is a connection on which the same request arrives again and again.
type repeatingConn struct {
	net.Conn

	request []byte
	read    int // how much of the request was read
}

func (c *repeatingConn) Read(p []byte) (int, error) {
	n := copy(p, c.request[c.read:])
	c.read = (c.read + n) % len(c.request)
	return n, nil
}

func (*repeatingConn) SetReadDeadline(time.Time) error { return nil }

// BenchmarkDirectWrite measures what BenchmarkServeWrite measures, and also parsing the request and making the reply.
func BenchmarkDirectWrite(b *testing.B) {
	b.ReportAllocs()
	serve := writer(b, 100)
	for b.Loop() {
		serve()
	}
}

func TestAllocationsOfADirectWrite(t *testing.T) {
	if allocations := testing.AllocsPerRun(1000, writer(t, 100)); allocations > 3 {
		t.Errorf("%v allocations for each write", allocations)
	}
}

// TestMemoryOfALargeDirectWrite: a request that takes several reads costs little more memory than its message, since its
// header says how long it is.
func TestMemoryOfALargeDirectWrite(t *testing.T) {
	const size, writes = 60_000, 100
	serve := writer(t, size)
	serve()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range writes {
		serve()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / writes; each > 2*size {
		t.Errorf("a write of %d bytes allocates %d", size, each)
	}
}

package megaphone

import (
	"fmt"
	"net/http"
	"testing"
)

// directWriter returns a function that serves one direct write to a channel, and takes the message.
func directWriter(tb testing.TB) func() {
	tb.Helper()
	registry := NewRegistry()
	tb.Cleanup(registry.Close)
	a, err := registry.Create(tb.Context(), "main", testLimits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := registry.Subscribe(tb.Context(), a.Consumer, SubscribeOptions{Limits: testLimits})
	if err != nil {
		tb.Fatal(err)
	}
	reply, _ := newDirectReply(http.Header{"Server": {"Caddy"}})
	c := &directConn{
		handler: &Handler{app: &App{MaxMessageSize: 1 << 20, limits: testLimits, broker: registry}},
		first: &http.Request{
			Method: http.MethodPost, Host: "localhost", Proto: "HTTP/1.1",
			Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"100"}},
		},
		reply: reply,
	}
	c.buffer = fmt.Appendf(nil, "POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n\"%098d\"", a.Producer, 0)
	var ms []*Message
	taken := 0
	return func() {
		c.begin, c.end, c.out = 0, len(c.buffer), c.out[:0]
		if c.serveNext() != served {
			tb.Fatal("it is not served")
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], maxTake)
		taken += len(ms)
		sub.Received(taken)
	}
}

// BenchmarkDirectWrite: what BenchmarkServeWrite shows, with the parsing of the request and the making of the reply.
func BenchmarkDirectWrite(b *testing.B) {
	b.ReportAllocs()
	serve := directWriter(b)
	for b.Loop() {
		serve()
	}
}

func TestAllocationsOfADirectWrite(t *testing.T) {
	if allocations := testing.AllocsPerRun(1000, directWriter(t)); allocations > 3 {
		t.Errorf("%v allocations for each write", allocations)
	}
}

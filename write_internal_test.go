package megaphone

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
)

// BenchmarkServeWrite measures a write in the handler, without what Caddy and net/http do before and after.
func BenchmarkServeWrite(b *testing.B) {
	b.ReportAllocs()
	write := serveWrites(b)
	for b.Loop() {
		write()
	}
}

// serveWrites returns a function that serves one write to a channel, and reads the message.
func serveWrites(tb testing.TB) func() {
	tb.Helper()
	app := &App{MaxMessageSize: 1 << 20, limits: brokerfixture.Limits, registry: newRegistry(memory.New())}
	app.broker = app.registry.broker
	tb.Cleanup(app.registry.Close)
	a, err := app.broker.Create(tb.Context(), "main", brokerfixture.Limits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := app.broker.Subscribe(tb.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
	if err != nil {
		tb.Fatal(err)
	}
	h := &Handler{app: app, logger: zap.NewNop()}
	h.serves[writeEndpoint] = true
	body := bytes.NewReader(nil)
	text := []byte(`"` + strings.Repeat("x", 98) + `"`)
	r := httptest.NewRequest(http.MethodPost, "/write/"+a.Producer+"/stream", body)
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(text))
	w := discardResponse{}
	var ms []*broker.Message
	taken := 0
	return func() {
		body.Reset(text)
		if err := h.ServeHTTP(w, r, nil); err != nil {
			tb.Fatal(err)
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], delivery.MaxTake)
		taken += len(ms)
		sub.Received(taken)
	}
}

// A discardResponse is a response writer that discards everything except the header.
type discardResponse http.Header

func (w discardResponse) Header() http.Header { return http.Header(w) }

func (discardResponse) Write(p []byte) (int, error) { return len(p), nil }

func (discardResponse) WriteHeader(int) {}

func TestServeWriteAllocatesLittle(t *testing.T) {
	// The message, its line, and what the garbage collection frees from the pool of buffers.
	const most = 3
	if allocations := testing.AllocsPerRun(1000, serveWrites(t)); allocations > most {
		t.Errorf("%v allocations for each write, want at most %d", allocations, most)
	}
}

package transport

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// stream serves one NDJSON response over a socket, to a client that takes everything. write writes to the response.
func stream(tb testing.TB, detached bool, write func(t *NDJSON)) {
	tb.Helper()
	done := make(chan struct{})
	type connKey struct{}
	server := &http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			t := NewNDJSON(w, r, Bounds{Timeout: time.Second})
			if err := t.Start(); err != nil {
				tb.Error(err)
			}
			if detached && !t.Detach(r, r.Context().Value(connKey{}).(net.Conn), nil) {
				tb.Error("the response was not detached")
			}
			write(t)
			t.End(Complete)
			close(done)
		}),
	}
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", filepath.Join(tb.TempDir(), "s"))
	if err != nil {
		tb.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "unix", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		tb.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	<-done
}

// BenchmarkTakenOver measures what a single message costs on a hijacked connection, and through net/http. Caddy adds
// two deadlines to the latter.
func BenchmarkTakenOver(b *testing.B) {
	line := []byte(strings.Repeat("x", 199) + "\n")
	for _, bench := range []struct {
		name     string
		detached bool
	}{{"taken over", true}, {"net/http", false}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			stream(b, bench.detached, func(t *NDJSON) {
				for b.Loop() {
					t.Append(uuid.UUID{}, line)
					if err := t.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// One allocation is allowed: the race detector makes the pool of buffers lose some.
func TestMessageOnAHijackedConnectionAllocatesLittle(t *testing.T) {
	for _, size := range []int{200, minShared} {
		line := line(size)
		stream(t, true, func(n *NDJSON) {
			if allocations := testing.AllocsPerRun(1000, func() {
				n.Append(uuid.UUID{}, line)
				if err := n.Flush(); err != nil {
					t.Error(err)
				}
			}); allocations > 1 {
				t.Errorf("a message of %d bytes needs %v allocations, want at most 1", size, allocations)
			}
		})
	}
}

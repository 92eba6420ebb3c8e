package transport

import (
	"context"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A way is one in which messages leave: a transport, with its handler or without, and what its client asks for.
type way struct {
	transport func(w http.ResponseWriter, r *http.Request) Transport
	stays     bool // the handler does
	header    http.Header
}

var ways = map[string]way{
	"NDJSON":                  {transport: ndjsonWay},
	"NDJSON with its handler": {transport: ndjsonWay, stays: true},
	"SSE":                     {transport: sseWay},
	"SSE with its handler":    {transport: sseWay, stays: true},
	"WebSocket":               {transport: webSocketWay, header: goodHandshake},
	"compressed WebSocket":    {transport: webSocketWay, header: offering(goodHandshake, "permessage-deflate")},
}

func ndjsonWay(w http.ResponseWriter, r *http.Request) Transport {
	return NewNDJSON(w, r, Bounds{Timeout: time.Minute})
}

func sseWay(w http.ResponseWriter, r *http.Request) Transport {
	return NewSSE(w, r, Bounds{Timeout: time.Minute})
}

func webSocketWay(w http.ResponseWriter, r *http.Request) Transport {
	return NewWebSocket(w, r, WebSocketOptions{Timeout: time.Minute, Compression: true})
}

func offering(handshake http.Header, extension string) http.Header {
	h := handshake.Clone()
	h.Set("Sec-WebSocket-Extensions", extension)
	return h
}

// connector serves transports over sockets whose buffers are small. It returns a function that connects a client, which
// has read the header of its response.
func (way way) connector(t *testing.T) (connect func() (Transport, *client)) {
	t.Helper()
	transports, over := make(chan Transport), make(chan struct{})
	type connKey struct{}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if err := conn.(*net.UnixConn).SetWriteBuffer(4 << 10); err != nil {
				t.Error(err)
			}
			return context.WithValue(ctx, connKey{}, conn)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			served := way.transport(w, r)
			if err := served.Start(); err != nil {
				t.Error(err)
			}
			if !way.stays && !served.(Detachable).Detach(r, r.Context().Value(connKey{}).(net.Conn), func() {}) {
				t.Error("the response is not detached")
			}
			transports <- served
			if way.stays {
				<-over
			}
		}),
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { close(over); server.Close() })
	return func() (Transport, *client) {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		r := request()
		if way.header != nil {
			r.Header = way.header
		}
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		c := &client{Conn: conn}
		c.skipHeader(t)
		return <-transports, c
	}
}

// text returns a line of a size that cannot be compressed much.
func text(size int) []byte {
	random := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // never fails
	return append([]byte(base64.RawURLEncoding.EncodeToString(random)[:size-1]), '\n')
}

func liveHeap() int64 {
	var stats runtime.MemStats
	for range 2 { // what is in pools survives one
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc) //nolint:gosec // far from overflowing
}

// Readers who take nothing hold what is being written to them for as long as a write may take. Large messages are not
// copied for each of them, and small ones once at most.
func TestWhatReadersHoldWhoTakeNothing(t *testing.T) {
	const readers = 40
	for name, sent := range map[string]struct {
		lines, size int
		limit       int64 // for each reader
	}{
		"a large message":      {1, 1_900_000, 80 << 10},
		"many middling ones":   {7, 10_000, 80 << 10},
		"as many as are taken": {65, 1000, 110 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			line := text(sent.size)
			for name, way := range ways {
				t.Run(name, func(t *testing.T) {
					connect := way.connector(t)
					var served []Transport
					var clients []*client
					for range readers {
						s, c := connect()
						served, clients = append(served, s), append(clients, c)
					}
					before := liveHeap()
					flushed := make(chan error, readers)
					for _, s := range served {
						go func() {
							for range sent.lines {
								s.Append(uuid.UUID{}, line)
							}
							flushed <- s.Flush()
						}()
					}
					for _, c := range clients { // what is to be copied is, once something is written
						if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
							t.Fatal(err)
						}
					}
					each := (liveHeap() - before) / readers
					t.Logf("%d KB for each reader", each/1000)
					if each > sent.limit {
						t.Errorf("each reader holds %d bytes", each)
					}
					if n := len(flushed); n > 0 {
						t.Errorf("%d readers have taken all", n)
					}
					for _, c := range clients {
						c.Close()
					}
					for range readers {
						if <-flushed == nil {
							t.Error("what nobody has taken is flushed")
						}
					}
					for _, s := range served {
						s.End(Broken)
					}
					runtime.KeepAlive(line)
				})
			}
		})
	}
}

package transport

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A way is a way in which messages leave: a transport, with its handler or without, and the header of the client's
// request.
type way struct {
	transport func(w http.ResponseWriter, r *http.Request) Transport
	stays     bool // the handler does not return before the end
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

func (way way) compressed() bool { return way.header.Get("Sec-WebSocket-Extensions") != "" }

func ndjsonWay(w http.ResponseWriter, r *http.Request) Transport {
	return NewNDJSON(w, r, Bounds{Timeout: time.Minute})
}

func sseWay(w http.ResponseWriter, r *http.Request) Transport {
	return NewSSE(w, r, false, Bounds{Timeout: time.Minute})
}

func webSocketWay(w http.ResponseWriter, r *http.Request) Transport {
	return NewWebSocket(w, r, WebSocketOptions{Timeout: time.Minute, Compression: true})
}

// offering returns a handshake that offers an extension.
func offering(handshake http.Header, extension string) http.Header {
	h := handshake.Clone()
	h.Set("Sec-WebSocket-Extensions", extension)
	return h
}

// connector serves transports over sockets with small buffers. The function that it returns connects a client and reads
// the header of the client's response.
func (way way) connector(t *testing.T) (connect func() (Transport, *client)) {
	t.Helper()
	transports := make(chan Transport)
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
				t.Error("the response was not detached")
			}
			if !way.stays {
				transports <- served
				return
			}
			over := make(chan struct{})
			transports <- handled{served, over}
			<-over
		}),
	}
	dir, err := os.MkdirTemp("", "mp") //nolint:usetesting // its path is too long for a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
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

// A handled transport has a handler, which returns after the transport's end.
type handled struct {
	Transport

	over chan struct{}
}

func (h handled) End(why Reason) {
	h.Transport.End(why)
	close(h.over)
}

// text returns a line of size bytes that hardly compresses.
func text(size int) []byte {
	random := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // never fails
	return append([]byte(base64.RawURLEncoding.EncodeToString(random)[:size-1]), '\n')
}

// liveHeap returns how many bytes of the heap are in use after a garbage collection.
func liveHeap() int64 {
	var stats runtime.MemStats
	for range 2 { // objects in pools survive the first collection
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// A stalled reader holds what is being written to it for as long as a write may take. Large messages are not copied for
// each reader. Small messages are copied at most once.
func TestWhatReadersHoldWhileStalled(t *testing.T) {
	const readers = 40
	for name, sent := range map[string]struct {
		lines, size int
		limit       int64 // for each reader
	}{
		"a large message":               {1, 1_900_000, 30 << 10},
		"several middle-sized messages": {7, 10_000, 30 << 10},
		"many small messages":           {65, 1000, 110 << 10},
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
					for _, c := range clients { // once something is written, every copy has been made
						if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
							t.Fatal(err)
						}
					}
					each := (liveHeap() - before) / readers
					t.Logf("%d KB for each reader", each/1000)
					if way.compressed() {
						sent.limit = max(sent.limit, maxDeflated+30<<10)
					}
					if each > sent.limit {
						t.Errorf("each reader holds %d bytes, want at most %d", each, sent.limit)
					}
					if n := len(flushed); n > 0 {
						t.Errorf("%d readers have taken everything", n)
					}
					for _, c := range clients {
						c.Close()
					}
					for range readers {
						if <-flushed == nil {
							t.Error("Flush did not fail, although the client had not taken everything")
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

// A slowConn reads in small pieces, so its other side can seldom write everything at once.
type slowConn struct {
	net.Conn

	random *rand.Rand
}

func (c slowConn) Read(p []byte) (int, error) {
	return c.Conn.Read(p[:min(len(p), 1+c.random.IntN(5000))])
}

// Small and large messages, alone and together, arrive as they were sent.
func TestMessagesOfAllSizesArriveInOrder(t *testing.T) {
	const batches = 100
	for name, way := range ways {
		if way.compressed() {
			continue // see TestCompressedWebSockets
		}
		t.Run(name, func(t *testing.T) {
			served, c := way.connector(t)()
			random := rand.New(rand.NewPCG(1, 2))
			c.Conn = slowConn{c.Conn, rand.New(rand.NewPCG(3, 4))}
			sent := make(chan []string, 1)
			go func() {
				var lines []string
				defer func() { sent <- lines }()
				for range batches {
					for range 1 + random.IntN(8) {
						size := []int{100, 3000, minShared - 1, minShared, 20_000, 100_000}[random.IntN(6)]
						line := append(fmt.Appendf(nil, "%d", len(lines)), text(size)...)
						lines = append(lines, string(line))
						served.Append(uuid.UUID{}, line)
					}
					if err := errors.Join(served.Flush(), served.Heartbeat()); err != nil {
						t.Error(err)
						break
					}
				}
				served.End(Complete)
			}()
			got := way.receive(t, c)
			c.Close() // the end of a WebSocket waits for this
			want := <-sent
			for i := range max(len(got), len(want)) {
				if i >= len(got) || i >= len(want) || got[i] != want[i] {
					t.Fatalf("got %d of %d messages; number %d is not the one that was sent", len(got), len(want), i)
				}
			}
		})
	}
}

// receive returns the lines that a client receives until the read ends.
func (way way) receive(t *testing.T, c *client) (lines []string) {
	t.Helper()
	for way.header != nil {
		switch opcode, text := c.readFrame(t); opcode {
		case opText:
			lines = append(lines, text+"\n")
		case opClose:
			return lines
		}
	}
	body, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(c)))
	if err != nil {
		t.Error(err)
	}
	if rest, isSSE := strings.CutPrefix(string(body), "retry: 1000\n"); isSSE {
		for event := range strings.SplitSeq(strings.TrimSuffix(rest, "\n\n"), "\n\n") {
			event = strings.TrimLeft(event, ":\n") // heartbeats
			if line, ok := strings.CutPrefix(event, "id: "+uuid.UUID{}.String()+"\ndata: "); ok {
				lines = append(lines, line+"\n")
			} else if event != "" {
				t.Errorf("%d bytes are not a server-sent event", len(event))
			}
		}
		return lines
	}
	return slices.Collect(strings.Lines(string(body)))
}

package transport

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
)

// BenchmarkWebSocket measures what a message over a WebSocket costs, alone and in a batch, and what an acknowledgement
// costs.
func BenchmarkWebSocket(b *testing.B) {
	event := line(200)
	for name, batch := range map[string]int{"one message": 1, "batch of 16": 16} {
		b.Run(name, func(b *testing.B) {
			s, conn, _ := benchWebSocket(b)
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			b.ReportAllocs()
			for b.Loop() {
				for range batch {
					s.Append(uuid.UUID{}, event)
				}
				if err := s.Flush(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("acknowledgement", func(b *testing.B) {
		_, conn, acks := benchWebSocket(b)
		text := `{"ack":"01890a5d-ac96-774b-bcce-b302099a8057"}`
		ack := append([]byte{0x80 | opText, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := conn.Write(ack); err != nil {
				b.Fatal(err)
			}
			<-acks
		}
	})
}

// benchWebSocket returns a WebSocket over TCP, the client's side, and the IDs that the client acknowledges.
func benchWebSocket(b *testing.B) (*WebSocket, net.Conn, <-chan string) {
	b.Helper()
	acks, sockets := make(chan string, 1), make(chan *WebSocket, 1)
	type connKey struct{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := r.Context().Value(connKey{}).(net.Conn)
		s := NewWebSocket(w, r, WebSocketOptions{Timeout: time.Minute, Conn: conn, Acknowledge: func(id string) { acks <- id }})
		if err := s.Start(); err != nil {
			b.Error(err)
		}
		sockets <- s
	}))
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	server.Start()
	b.Cleanup(server.Close)
	conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	r := request()
	r.Header = goodHandshake.Clone()
	if err := r.Write(conn); err != nil {
		b.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(conn), r); err != nil {
		b.Fatal(err)
	}
	return <-sockets, conn, acks
}

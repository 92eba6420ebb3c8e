package transport

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// dialCompressed connects a client of another library, with that library's compression mode.
func dialCompressed(t *testing.T, options WebSocketOptions, mode websocket.CompressionMode) (*WebSocket, *websocket.Conn, http.Header) {
	t.Helper()
	sockets := make(chan *WebSocket, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := NewWebSocket(w, r, options)
		if err := s.Start(); err != nil {
			t.Error(err)
		}
		sockets <- s
	}))
	t.Cleanup(server.Close)
	conn, response, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{CompressionMode: mode, CompressionThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	t.Cleanup(func() { _ = conn.CloseNow() })
	s := <-sockets
	t.Cleanup(func() { s.End(Broken) })
	return s, conn, response.Header
}

func TestCompressedWebSockets(t *testing.T) {
	for mode, extension := range map[websocket.CompressionMode]string{
		websocket.CompressionDisabled:          "",
		websocket.CompressionContextTakeover:   "permessage-deflate;server_no_context_takeover;client_no_context_takeover",
		websocket.CompressionNoContextTakeover: "permessage-deflate;server_no_context_takeover;client_no_context_takeover",
	} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			acks := make(chan string, 1)
			s, conn, header := dialCompressed(t, WebSocketOptions{Timeout: timeout, Compression: true, Acknowledge: func(id string) { acks <- id }}, mode)
			if got := strings.ReplaceAll(header.Get("Sec-WebSocket-Extensions"), "; ", ";"); got != extension {
				t.Errorf("the extensions are %q, want %q", got, extension)
			}
			for i, size := range []int{10, minDeflated, minDeflated + 1, 70_000, 20, 3000} {
				text := strings.Repeat(fmt.Sprintf("%d,", i), size)[:size]
				before := s.out.writer.Written()
				s.Append(uuid.UUID{}, []byte(text+"\n"))
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				if _, got, err := conn.Read(t.Context()); err != nil || string(got) != text {
					t.Errorf("message %d: the client got %d bytes, want %d; the error is %v", i, len(got), size, err)
				}
				sent := s.out.writer.Written() - before
				if isSmaller := sent < uint64(size); isSmaller != (extension != "" && size >= minDeflated) {
					t.Errorf("a message of %d bytes was sent as %d bytes", size, sent)
				}
				if err := conn.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"ack":"%d"}`, i)); err != nil {
					t.Fatal(err)
				}
				select {
				case got := <-acks:
					if got != fmt.Sprint(i) {
						t.Errorf("got an acknowledgement of %q, want one of %d", got, i)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("no acknowledgement came")
				}
			}
			large := `{"ack":"` + strings.Repeat("x", 10*maxClientMessage) + `"}`
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(large)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
				t.Errorf("after a message that is too large, the error is %v", err)
			}
		})
	}
}

func TestMessageThatStaysLargeIsNotCompressed(t *testing.T) {
	s, conn, _ := dialCompressed(t, WebSocketOptions{Timeout: timeout, Compression: true}, websocket.CompressionNoContextTakeover)
	for _, size := range []int{1_000_000, 1000, 90_000, 80_000} {
		random := text(size)
		before := s.out.writer.Written()
		s.Append(uuid.UUID{}, random)
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		if _, got, err := conn.Read(t.Context()); err != nil || string(got)+"\n" != string(random) {
			t.Fatalf("the client got %d of %d bytes, %v", len(got), size, err)
		}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		sent := s.out.writer.Written() - before
		if isSmaller := sent < uint64(size); isSmaller != (size*3/4 < maxDeflated) {
			t.Errorf("a message of %d bytes was sent as %d bytes", size, sent)
		}
	}
}

func TestOffersOfCompression(t *testing.T) {
	const accepted = "permessage-deflate;server_no_context_takeover;client_no_context_takeover"
	for _, test := range []struct {
		offers []string
		want   string
	}{
		{nil, ""},
		{[]string{"permessage-deflate"}, accepted},
		{[]string{"permessage-deflate; client_max_window_bits"}, accepted}, // the offer of browsers
		{[]string{"permessage-deflate; client_max_window_bits=10"}, accepted},
		{[]string{"permessage-deflate; server_no_context_takeover; client_no_context_takeover"}, accepted},
		{[]string{"permessage-deflate; server_max_window_bits=10"}, ""}, // the window is always the largest
		{[]string{"permessage-deflate; server_max_window_bits=10, permessage-deflate"}, accepted},
		{[]string{"permessage-deflate; nonsense, permessage-deflate"}, accepted},
		{[]string{"x-webkit-deflate-frame", "permessage-deflate"}, accepted},
		{[]string{"permessage-deflate; server_max_window_bits=99"}, ""},
		{[]string{"x"}, ""},
		{[]string{`"`, "permessage-deflate"}, ""},
		{[]string{";;,"}, ""},
	} {
		if got := strings.ReplaceAll(agreeOnCompression(test.offers), "; ", ";"); got != test.want {
			t.Errorf("for the offers %q, the answer is %q, want %q", test.offers, got, test.want)
		}
	}
}

// A message costs no more memory than it needs on the wire: connections share the compressor.
func BenchmarkCompressedWebSocket(b *testing.B) {
	text := []byte(strings.Repeat(`{"a":1,"b":"x"},`, 100))
	b.ReportAllocs()
	for b.Loop() {
		var d deflation
		if err := deflate(&d, text); err != nil {
			b.Fatal(err)
		}
		d.free()
	}
}

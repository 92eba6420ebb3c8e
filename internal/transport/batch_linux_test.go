package transport

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// serveWebSocket serves a WebSocket over TCP. The client's machine has a small receive buffer.
func serveWebSocket(t *testing.T, patience time.Duration) (*WebSocket, *client) {
	t.Helper()
	sockets := make(chan *WebSocket, 1)
	type connKey struct{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := r.Context().Value(connKey{}).(net.Conn)
		s := NewWebSocket(w, r, WebSocketOptions{Timeout: patience, Conn: conn})
		if err := s.Start(); err != nil {
			t.Error(err)
		}
		sockets <- s
		<-s.Gone()
	}))
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	server.Start()
	t.Cleanup(server.Close)
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := request()
	r.Header = goodHandshake.Clone()
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	c := &client{Conn: conn}
	c.skipHeader(t)
	return <-sockets, c
}

// The server's machine takes all messages at once. The client takes more than twice the timeout to read them.
func TestSlowClientHasTimeToAnswerAPing(t *testing.T) {
	const patience, messages, size = time.Second, 700, 1000
	s, c := serveWebSocket(t, patience)
	for range messages {
		s.Append(uuid.UUID{}, line(size))
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := s.Heartbeat(); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if opcode, text := c.readFrame(t); opcode != opText || len(text) != size-1 {
			t.Fatalf("got frame %d of %d bytes, want a text of %d bytes", opcode, len(text), size-1)
		}
		time.Sleep(time.Duration(i%2) * 6 * time.Millisecond)
	}
	if took := time.Since(start); took < 2*patience {
		t.Fatalf("the client took only %v, want at least %v", took, 2*patience)
	}
	c.writeFrame(t, opPong, c.readPing(t))
	c.writeFrame(t, opPing, "hello")
	c.expectFrame(t, opPong, "hello")
}

func TestClientWhoseMachineTakesNothingIsCutOff(t *testing.T) {
	const patience = 300 * time.Millisecond
	s, _ := serveWebSocket(t, patience)
	for range 500 {
		s.Append(uuid.UUID{}, line(1000))
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := s.Heartbeat(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Gone():
		if took := time.Since(start); took < patience {
			t.Errorf("the client was cut off after %v, want at least %v", took, patience)
		}
	case <-time.After(20 * time.Second):
		t.Error("the client was not cut off")
	}
}

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

// serveWebSocket serves a WebSocket over TCP, to a client whose machine takes little before the client does.
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

// The server's machine has all of the messages at once, and the client takes them from there in more than twice the time.
func TestAClientHasTimeToAnswerAPingWhileItsMachineTakesSomething(t *testing.T) {
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
		if opcode, text := c.frame(t); opcode != opText || len(text) != size-1 {
			t.Fatalf("frame %d of %d bytes", opcode, len(text))
		}
		time.Sleep(time.Duration(i%2) * 6 * time.Millisecond)
	}
	if took := time.Since(start); took < 2*patience {
		t.Fatalf("the client was not slow: %v", took)
	}
	opcode, ping := c.frame(t)
	if opcode != opPing {
		t.Fatalf("frame %d", opcode)
	}
	c.say(t, opPong, ping)
	c.say(t, opPing, "hello")
	if opcode, text := c.frame(t); opcode != opPong || text != "hello" {
		t.Errorf("frame %d %q for a ping", opcode, text)
	}
}

func TestAClientWhoseMachineTakesNothingIsCutOff(t *testing.T) {
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
			t.Errorf("cut off after %v", took)
		}
	case <-time.After(20 * time.Second):
		t.Error("the client is not cut off")
	}
}

package receipt

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// pair returns both sides of a TCP connection.
func pair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	server, err = listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

func look(t *testing.T, c *Conn) (acked uint64, queued int) {
	t.Helper()
	acked, queued, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	return acked, queued
}

func TestStateFollowsTheClientsMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux reports the state")
	}
	server, client := pair(t)
	c := Of(tls.Server(server, nil))
	if c == nil {
		t.Fatal("Of found no TCP connection below TLS")
	}
	if _, queued := look(t, c); queued != 0 {
		t.Errorf("%d bytes are queued at the beginning", queued)
	}

	// If a client reads nothing, its machine acknowledges only what it has room for.
	if err := client.SetReadBuffer(256 << 10); err != nil {
		t.Fatal(err)
	}
	written := 0
	var acked uint64
	var queued int
	// A write may miss its deadline before it was even tried.
	for piece, tries := make([]byte, 64<<10), 0; queued < 1<<10 && tries < 100; tries++ {
		for err := error(nil); err == nil; {
			_ = server.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			var n int
			n, err = server.Write(piece)
			written += n
		}
		acked, queued = look(t, c)
	}
	if queued < 1<<10 || queued > written {
		t.Errorf("%d of %d bytes are queued", queued, written)
	}
	mark := acked + uint64(queued)
	if after, _ := look(t, c); after > mark {
		t.Errorf("%d bytes are acknowledged, but only %d were written", after, mark)
	}

	// Once the client has read everything, everything is acknowledged.
	if _, err := io.CopyN(io.Discard, client, int64(written)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); queued > 0; _, queued = look(t, c) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are still queued", queued)
		}
		time.Sleep(time.Millisecond)
	}

	server.Close()
	if _, _, err := c.State(); err == nil {
		t.Error("State did not fail for a closed connection")
	}
}

func TestOtherConnectionsHaveNoState(t *testing.T) {
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	server, _ := pair(t)
	for _, conn := range []net.Conn{pipe, tls.Server(pipe, nil), struct{ net.Conn }{server}} {
		if Of(conn) != nil {
			t.Errorf("Of did not return nil for a %T", conn)
		}
	}
}

func BenchmarkLook(b *testing.B) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	c := Of(conn)
	if c == nil {
		b.Skip("this system does not report the state")
	}
	for b.Loop() {
		if _, _, err := c.State(); err != nil {
			b.Fatal(err)
		}
	}
}

package receipt

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// connect returns both sides of a connection through a listener, and closes them in the end.
func connect(t *testing.T, listener net.Listener, dial func(address string) (net.Conn, error)) (server, client net.Conn) {
	t.Helper()
	defer listener.Close()
	client, err := dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	type buffered interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}
	for _, conn := range []net.Conn{server, client} { // the tests fill them
		if err := errors.Join(conn.(buffered).SetReadBuffer(64<<10), conn.(buffered).SetWriteBuffer(64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	return server, client
}

// multipath returns both sides of a connection with Multipath TCP.
func multipath(t *testing.T) (server, client net.Conn) {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(true)
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, client = connect(t, listener, dialMultipath)
	if using, err := server.(*net.TCPConn).MultipathTCP(); err != nil || !using {
		t.Skip("this system has no Multipath TCP")
	}
	return server, client
}

func dialMultipath(address string) (net.Conn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	return dialer.DialContext(context.Background(), "tcp", address)
}

// fallenBackPair returns both sides of a connection for which Multipath TCP was asked, and which is plain TCP.
func fallenBackPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, server = connect(t, listener, dialMultipath) // only who dials can be served by plain TCP
	if kind, err := kindOfConn(server); err != nil || kind != multipathTCP {
		t.Skip("this system has no Multipath TCP")
	}
	return server, client
}

func kindOfConn(conn net.Conn) (k kind, err error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	outer := raw.Control(func(fd uintptr) { k, err = kindOf(int(fd)) })
	return k, errors.Join(outer, err)
}

// tcpPair is pair for tables.
func tcpPair(t *testing.T) (server, client net.Conn) { t.Helper(); return pair(t) }

func unixPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, listener, func(address string) (net.Conn, error) { return net.Dial("unix", address) })
}

// fill writes until the kernel accepts no more, and returns how many bytes it has accepted.
func fill(t *testing.T, conn net.Conn) (written int64) {
	t.Helper()
	// A write may miss its deadline before it was even tried.
	for tries := 0; written == 0 && tries < 100; tries++ {
		for err := error(nil); err == nil; {
			_ = conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			var n int
			n, err = conn.Write(make([]byte, 64<<10))
			written += int64(n)
		}
	}
	if written == 0 {
		t.Fatal("the kernel accepts nothing")
	}
	return written
}

// awaits waits until the state of a connection is as it should be.
func awaits(t *testing.T, c *Conn, what string, ok func(acked uint64, queued int) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		acked, queued := look(t, c)
		if ok(acked, queued) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are acknowledged and %d are queued, want %s", acked, queued, what)
		}
	}
}

// TestStateOverOtherSockets checks that what the system tells of sockets other than TCP's is taken for no more than it
// says: a peer that reads nothing has not received what is queued.
func TestStateOverOtherSockets(t *testing.T) {
	for name, pair := range map[string]func(*testing.T) (server, client net.Conn){
		"Multipath TCP": multipath, "fallen back": fallenBackPair, "Unix": unixPair,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, client := pair(t)
			if _, err := server.Write([]byte{0}); err != nil { // when a connection has fallen back, the kernel first counts 1
				t.Fatal(err)
			}
			if _, err := client.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			c := Of(server)
			if c == nil {
				t.Fatal("Of returns nil")
			}
			awaits(t, c, "none at the beginning", func(_ uint64, queued int) bool { return queued == 0 })
			written := fill(t, server)
			acked, queued := look(t, c)
			if queued == 0 {
				t.Fatal("nothing is queued, and the client has read nothing")
			}
			mark := acked + uint64(queued)

			// What is acknowledged never runs ahead of what the client's side took.
			if _, err := io.CopyN(io.Discard, client, written/2); err != nil {
				t.Fatal(err)
			}
			if name == "Unix" { // a Unix socket has no buffer between the two
				if acked, _ := look(t, c); acked >= mark {
					t.Errorf("the client has read half, and %d of %d bytes count as acknowledged", acked, mark)
				}
			}
			if _, err := io.CopyN(io.Discard, client, written-written/2); err != nil {
				t.Fatal(err)
			}
			awaits(t, c, "nothing queued", func(_ uint64, queued int) bool { return queued == 0 })

			// Acknowledgements go on counting from where they were.
			written = fill(t, server)
			before, queued := look(t, c)
			mark = before + uint64(queued)
			if _, err := io.CopyN(io.Discard, client, written/2); err != nil {
				t.Fatal(err)
			}
			awaits(t, c, "more acknowledged than before", func(acked uint64, queued int) bool { return queued == 0 || acked > before })
			if acked, _ := look(t, c); acked > mark {
				t.Errorf("%d bytes are acknowledged, but only %d were written", acked, mark)
			}

			server.Close()
			if _, _, err := c.State(); err == nil {
				t.Error("State did not fail for a closed connection")
			}
		})
	}
}

// TestStateOfAVanishedPeer checks that bytes do not count as received because the kernel drops them: it does so when the
// peer closes its side before it has read everything.
func TestStateOfAVanishedPeer(t *testing.T) {
	for name, pair := range map[string]func(*testing.T) (server, client net.Conn){
		"TCP": tcpPair, "Multipath TCP": multipath, "fallen back": fallenBackPair, "Unix": unixPair,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, client := pair(t)
			c := Of(server)
			if c == nil {
				t.Fatal("Of returns nil")
			}
			// The client's side is full, and the server's side is not: everything left the socket of Multipath TCP for that of TCP.
			for queued := 0; queued == 0; _, queued = look(t, c) {
				if _, err := server.Write(make([]byte, 16<<10)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := server.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the server does not see that the client is gone: %v", err)
			}
			if acked, queued, err := c.State(); err == nil && queued == 0 {
				t.Errorf("nothing is queued, %d bytes are acknowledged, and the client has read nothing", acked)
			}
		})
	}
}

func TestWrittenCountsWhatTheKernelAccepts(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(*testing.T) (server, client net.Conn){
		"TCP": tcpPair, "Multipath TCP": multipath,
	} {
		t.Run(name, func(t *testing.T) {
			server, client := pair(t)
			c := Of(server)
			if c == nil || !c.Counts() {
				t.Fatal("the connection does not count what is written")
			}
			written := func() uint64 {
				t.Helper()
				n, err := c.Written()
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := written()
			n := fill(t, server)
			if got := written() - before; got != uint64(n) {
				t.Errorf("%d bytes are written, want %d", got, n)
			}
			if _, err := io.CopyN(io.Discard, client, n); err != nil {
				t.Fatal(err)
			}
			if got := written() - before; got != uint64(n) {
				t.Errorf("%d bytes are written once they have arrived, want %d", got, n)
			}
		})
	}
}

func TestWrittenIsNotKnownOfAllSockets(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(*testing.T) (server, client net.Conn){"fallen back": fallenBackPair, "Unix": unixPair} {
		t.Run(name, func(t *testing.T) {
			server, _ := pair(t)
			c := Of(server)
			if c == nil {
				t.Fatal("Of returns nil")
			}
			if _, err := c.Written(); err == nil || c.Counts() {
				t.Errorf("the connection counts what is written: Written returns %v", err)
			}
		})
	}
}

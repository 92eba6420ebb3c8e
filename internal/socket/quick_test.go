package socket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// overQuick runs a test with a quick connection and its peer, over TCP and over a Unix socket.
func overQuick(t *testing.T, test func(t *testing.T, quick, peer net.Conn)) {
	t.Parallel()
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		t.Run(network, func(t *testing.T) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			conn, err := (&net.Dialer{}).DialContext(ctx, network, listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			test(t, socket.Quick(conn), peer)
		})
	}
}

func TestQuickWaitsForRoom(t *testing.T) {
	overQuick(t, func(t *testing.T, quick, peer net.Conn) {
		sent := bytes.Repeat([]byte("0123456789"), 1<<20) // more than the kernel keeps
		wrote := make(chan error, 1)
		go func() {
			n, err := quick.Write(sent)
			if err == nil && n != len(sent) {
				err = io.ErrShortWrite
			}
			_ = quick.(interface{ CloseWrite() error }).CloseWrite()
			wrote <- err
		}()
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("the peer has read %d of %d bytes: %v", len(got), len(sent), err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

func TestQuickReads(t *testing.T) {
	overQuick(t, func(t *testing.T, quick, peer net.Conn) {
		if n, err := quick.Read(nil); n != 0 || err != nil {
			t.Errorf("a read of nothing: %d, %v", n, err)
		}
		sent := bytes.Repeat([]byte("0123456789"), 1<<18)
		go func() {
			_, _ = peer.Write(sent)
			_ = peer.Close()
		}()
		if got, err := io.ReadAll(quick); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read %d of %d bytes: %v", len(got), len(sent), err)
		}
		if n, err := quick.Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // callers compare, as with other connections
			t.Errorf("a read after the end: %d, %v", n, err)
		}
	})
}

func TestQuickEnds(t *testing.T) {
	overQuick(t, func(t *testing.T, quick, _ net.Conn) {
		_ = quick.SetDeadline(time.Now().Add(time.Millisecond))
		if n, err := quick.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read after the deadline: %d, %v", n, err)
		}
		if n, err := quick.Write(make([]byte, 10<<20)); n >= 10<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write after the deadline: %d, %v", n, err)
		}
		_ = quick.SetDeadline(time.Time{})
		read := make(chan error, 1)
		go func() {
			_, err := quick.Read(make([]byte, 1))
			read <- err
		}()
		_ = quick.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read of a closed connection: %v", err)
		}
		if _, err := quick.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write to a closed connection: %v", err)
		}
	})
}

func TestQuickTellsFaults(t *testing.T) {
	overQuick(t, func(t *testing.T, quick, peer net.Conn) {
		_ = peer.Close()
		for range 100 { // the first writes may come before the reset
			if _, err := quick.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Error("writes succeed although the peer is gone")
	})
}

func TestQuickLeavesOthers(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer b.Close()
	defer a.Close()
	if socket.Quick(a) != a {
		t.Error("a pipe has no socket")
	}
}

func BenchmarkQuick(b *testing.B) {
	for name, dress := range map[string]func(net.Conn) net.Conn{"net": func(c net.Conn) net.Conn { return c }, "quick": socket.Quick} {
		b.Run(name, func(b *testing.B) {
			listener, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err == nil {
					conn = dress(conn)
					_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
				}
			}()
			conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			conn = dress(conn)
			buffer := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(buffer); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, buffer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

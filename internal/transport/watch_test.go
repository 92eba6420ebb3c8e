package transport

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// fileConn returns the handle of a file. Linux cannot watch files.
func fileConn(t *testing.T) syscall.RawConn {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWatchNoticesTheClientsEndAndItsNextRequest(t *testing.T) {
	for name, test := range map[string]struct {
		act   func(far net.Conn)
		early string // what the watch reads
		rest  string // what is left to read for others
		gone  bool
	}{
		"a client that goes":            {act: func(far net.Conn) { far.Close() }, gone: true},
		"a client that ends its writes": {act: func(far net.Conn) { _ = far.(*net.UnixConn).CloseWrite() }, gone: true},
		"a client that sends":           {act: func(far net.Conn) { _, _ = io.WriteString(far, "GET") }, early: "G", rest: "ET"},
		"a client that sends and goes":  {act: func(far net.Conn) { _, _ = io.WriteString(far, "GET"); far.Close() }, early: "G", rest: "ET"},
		"a client that waits":           {act: func(net.Conn) {}},
	} {
		for how, prepare := range map[string]func(*testing.T, *clientWatch){
			"the system watches":          func(*testing.T, *clientWatch) {},
			"it is not a socket":          func(_ *testing.T, w *clientWatch) { w.raw = nil },
			"the system refuses to watch": func(t *testing.T, w *clientWatch) { w.raw = fileConn(t) },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				near, far := socketPair(t)
				called := make(chan struct{})
				var w clientWatch
				w.init(near, func() { close(called) })
				prepare(t, &w)
				w.start()
				test.act(far)
				if test.gone {
					within(t, w.gone)
					within(t, called)
				}
				for test.early != "" && !w.isEarly() {
					runtime.Gosched()
				}
				early, gone := w.end()
				if string(early) != test.early || gone != test.gone {
					t.Errorf("end returned %q, %v, want %q, %v", early, gone, test.early, test.gone)
				}
				_ = near.SetReadDeadline(time.Now().Add(10 * time.Second))
				rest := make([]byte, len(test.rest))
				if _, err := io.ReadFull(near, rest); err != nil || string(rest) != test.rest {
					t.Errorf("the rest is %q, %v, want %q", rest, err, test.rest)
				}
				near.Close()
				select {
				case <-called:
					if !gone {
						t.Error("onGone was called although the client had not gone")
					}
				default:
				}
			})
		}
	}
}

// socketPair returns both sides of a connection.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if far, err = new(net.Dialer).DialContext(t.Context(), "unix", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if near, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near, far
}

func (w *clientWatch) isEarly() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.early != nil
}

// within waits until done is closed. It fails the test if that takes too long.
func within(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("waited too long")
	}
}

package transport

import (
	"io"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// hidden is a connection of which nothing more is known, so a goroutine has to wait for it.
type hidden struct{ net.Conn }

func TestAWatchNoticesTheClientsEndAndItsNextRequest(t *testing.T) {
	for name, test := range map[string]struct {
		act   func(far net.Conn)
		early string // is read by the watch
		rest  string // is left for others
		gone  bool
	}{
		"a client that goes":            {act: func(far net.Conn) { far.Close() }, gone: true},
		"a client that ends its writes": {act: func(far net.Conn) { _ = far.(*net.UnixConn).CloseWrite() }, gone: true},
		"a client that sends":           {act: func(far net.Conn) { _, _ = io.WriteString(far, "GET") }, early: "G", rest: "ET"},
		"a client that sends and goes":  {act: func(far net.Conn) { _, _ = io.WriteString(far, "GET"); far.Close() }, early: "G", rest: "ET"},
		"a client that waits":           {act: func(net.Conn) {}},
	} {
		for how, wrap := range map[string]func(net.Conn) net.Conn{
			"the system tells":  func(conn net.Conn) net.Conn { return conn },
			"a goroutine waits": func(conn net.Conn) net.Conn { return hidden{conn} },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				near, far := socketPair(t)
				told := make(chan struct{})
				var w clientWatch
				w.init(wrap(near), func() { close(told) })
				w.start()
				test.act(far)
				if test.gone {
					within(t, w.gone)
					within(t, told)
				}
				for test.early != "" && !w.isEarly() {
					runtime.Gosched()
				}
				early, gone := w.end()
				if string(early) != test.early || gone != test.gone {
					t.Errorf("early %q, gone %v", early, gone)
				}
				_ = near.SetReadDeadline(time.Now().Add(10 * time.Second))
				rest := make([]byte, len(test.rest))
				if _, err := io.ReadFull(near, rest); err != nil || string(rest) != test.rest {
					t.Errorf("%q is left, %v", rest, err)
				}
				near.Close()
				select {
				case <-told:
					if !gone {
						t.Error("told of an end that was not one")
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

func within(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not come")
	}
}

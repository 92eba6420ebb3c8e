package readable

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A pair holds both sides of a connection. A test watches the near side.
type pair struct {
	*testing.T

	near, far net.Conn
	raw       syscall.RawConn
	calls     atomic.Int32
	called    chan struct{}
}

func (p *pair) Readable() {
	p.calls.Add(1)
	p.called <- struct{}{}
}

func newPair(t *testing.T, listener net.Listener) *pair {
	t.Helper()
	far, err := new(net.Dialer).DialContext(t.Context(), listener.Addr().Network(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	raw, err := near.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &pair{T: t, near: near, far: far, raw: raw, called: make(chan struct{}, 100)}
}

func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func (p *pair) start() Watch {
	p.Helper()
	w, err := Start(p.raw, p)
	if err != nil {
		p.Fatal(err)
	}
	return w
}

// awaitCall waits until Readable was called.
func (p *pair) awaitCall() {
	p.Helper()
	select {
	case <-p.called:
	case <-time.After(10 * time.Second):
		p.Fatal("Readable was not called")
	}
}

func (p *pair) send(text string) {
	p.Helper()
	if _, err := io.WriteString(p.far, text); err != nil {
		p.Fatal(err)
	}
}

// settle waits until the poller has reported everything that has happened so far.
func settle(t *testing.T, listener net.Listener) {
	t.Helper()
	for range 3 {
		p := newPair(t, listener)
		w := p.start()
		p.send("x")
		p.awaitCall()
		w.Stop(p.raw)
	}
}

func TestReadableIsCalledOnce(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for name, event := range map[string]func(*pair){
			"bytes":       func(p *pair) { p.send("x") },
			"the end":     func(p *pair) { p.far.Close() },
			"half an end": func(p *pair) { _ = p.far.(interface{ CloseWrite() error }).CloseWrite() },
			"a reset": func(p *pair) {
				if tcp, ok := p.far.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
				p.far.Close()
			},
		} {
			t.Run(network+", "+name, func(t *testing.T) {
				listener := listen(t, network)
				p := newPair(t, listener)
				w := p.start()
				defer w.Stop(p.raw)
				settle(t, listener)
				if p.calls.Load() != 0 {
					t.Error("Readable was called before anything had happened")
				}
				event(p)
				p.awaitCall()
				settle(t, listener)
				if n := p.calls.Load(); n != 1 {
					t.Errorf("Readable was called %d times, want once", n)
				}
				// The socket can still be read.
				if err := w.Again(p.raw); err != nil {
					t.Fatal(err)
				}
				p.awaitCall()
			})
		}
	}
}

func TestReadableIsCalledForEarlierBytes(t *testing.T) {
	p := newPair(t, listen(t, "tcp"))
	p.send("x")
	defer p.start().Stop(p.raw)
	p.awaitCall()
}

func TestStoppedWatch(t *testing.T) {
	listener := listen(t, "tcp")
	p := newPair(t, listener)
	w := p.start()
	w.Stop(p.raw)
	w.Stop(p.raw)
	p.send("x")
	settle(t, listener)
	if p.calls.Load() != 0 {
		t.Error("Readable was called after Stop")
	}
	if w.Again(p.raw) == nil {
		t.Error("Again did not fail after Stop")
	}
	w = p.start()
	p.awaitCall()
	p.near.Close()
	w.Stop(p.raw)
	Watch{}.Stop(p.raw)
	if _, err := Start(p.raw, p); err == nil {
		t.Error("Start did not fail for a closed socket")
	}
}

func TestStartRefusesAFile(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	poller, err := thePoller()
	if err != nil {
		t.Fatal(err)
	}
	slots := func() int {
		poller.mu.Lock()
		defer poller.mu.Unlock()
		return len(poller.slots) - len(poller.free)
	}
	before := slots()
	if _, err := Start(raw, new(pair)); err == nil {
		t.Error("Start did not fail for a file")
	}
	if slots() != before {
		t.Error("the file kept its place")
	}
}

// Many sockets come and go at once, so file descriptors and places have many waiters one after the other. Readable must
// be called for a waiter's own bytes, and never for the bytes of others.
func TestWaitersAreNotMixedUp(t *testing.T) {
	listener := listen(t, "tcp")
	var accepting sync.Mutex
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 60 {
				accepting.Lock()
				p := newPair(t, listener)
				accepting.Unlock()
				w := p.start()
				for range rand.N(4) {
					p.send("x")
					p.awaitCall()
					if _, err := p.near.Read(make([]byte, 1)); err != nil {
						t.Error(err)
						return
					}
					if err := w.Again(p.raw); err != nil {
						t.Error(err)
						return
					}
				}
				if before := p.calls.Load(); rand.N(2) == 0 {
					runtime.Gosched()
					if p.calls.Load() != before {
						t.Error("Readable was called although nothing had happened")
					}
					w.Stop(p.raw)
					p.send("x") // nobody waits for this byte
				} else {
					p.far.Close()
					p.awaitCall()
					w.Stop(p.raw)
				}
				p.near.Close()
				p.far.Close()
			}
		})
	}
	all.Wait()
}

func TestWaitersHaveNoGoroutine(t *testing.T) {
	listener := listen(t, "unix")
	settle(t, listener)
	var pairs []*pair
	var watches []Watch
	before := runtime.NumGoroutine()
	for range 100 {
		p := newPair(t, listener)
		pairs, watches = append(pairs, p), append(watches, p.start())
	}
	if more := runtime.NumGoroutine() - before; more > 10 {
		t.Errorf("100 watches need %d more goroutines", more)
	}
	stacks := make([]byte, 1<<20)
	if n := strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "(*poller).run("); n != 1 {
		t.Errorf("%d goroutines run the poller, want 1", n)
	}
	for i, p := range pairs {
		p.send("x")
		p.awaitCall()
		watches[i].Stop(p.raw)
	}
}

package handover

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// listenAt listens as Caddy does, at a port that can be shared.
func listenAt(t *testing.T, address string) net.Listener {
	t.Helper()
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.Listen(t.Context(), 0, net.ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return l.(net.Listener)
}

// accept greets all connections.
func accept(inner net.Listener) *Listener {
	l := Listen(inner, Settings{})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
	return l
}

// greet opens a connection and waits for the greeting.
func greet(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, len("hello")))
	return err
}

// While the sockets of one address are replaced again and again, nobody who connects is refused or reset, although the
// kernel spreads connections over all of them. In the end, only the last accepts.
func TestNoConnectionIsLostWithASocket(t *testing.T) {
	a := accept(listenAt(t, "tcp/127.0.0.1:0"))
	address := a.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stop := make(chan struct{})
	var greeted atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := greet(ctx, address); err != nil {
					t.Error(err)
					return
				}
				greeted.Add(1)
			}
		})
	}
	for range 10 {
		next := accept(listenAt(t, "tcp/"+address))
		for before := greeted.Load(); greeted.Load() < before+50 && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		a = next
	}
	g := a.group
	for lingers := true; lingers && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
		g.mu.Lock()
		lingers = len(g.lingering) > 0
		g.mu.Unlock()
	}
	close(stop)
	clients.Wait()
	t.Logf("%d connections", greeted.Load())
	if len(g.sockets) != 2 {
		t.Errorf("there are %d sockets", len(g.sockets))
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := greet(ctx, address); err == nil {
		t.Error("a socket still accepts")
	}
}

// The name of Caddy's own listener is known.
func TestTheSocketOfCaddysListener(t *testing.T) {
	l := listenAt(t, "tcp/127.0.0.1:0")
	defer l.Close()
	if socketOf(l) == nil {
		t.Errorf("%T is not known", l)
	}
}

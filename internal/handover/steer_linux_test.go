package handover

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// listenAt listens as Caddy does, at a port that sockets can share.
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

// accept accepts connections and greets each.
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

// The sockets of one address are replaced again and again. The kernel spreads connections over all of them, but it
// refuses or resets no client. In the end, only the last socket accepts.
func TestReplacingASocketLosesNoConnection(t *testing.T) {
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
		t.Errorf("%d sockets are left, want 2", len(g.sockets))
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := greet(ctx, address); err == nil {
		t.Error("a socket still accepts")
	}
}

func TestSocketOfCaddysListener(t *testing.T) {
	l := listenAt(t, "tcp/127.0.0.1:0")
	defer l.Close()
	if socketOf(l) == nil {
		t.Errorf("no socket was found in a %T", l)
	}
}

// A site that listens on one kind of address does not listen on others when it steers.
func TestSteeringListensWhereTheOthersDo(t *testing.T) {
	for address, network := range map[string]string{
		"tcp4/0.0.0.0:0": "tcp4", "tcp6/[::]:0": "tcp6", "tcp/[::]:0": "tcp", "tcp/127.0.0.1:0": "tcp4",
	} {
		l := listenAt(t, address)
		if got := sharedNetwork(socketOf(l)); got != network {
			t.Errorf("the network of %s is %q, want %q", address, got, network)
		}
		s := newSteering(l, net.KeepAliveConfig{}, func(net.Conn) {})
		if s == nil {
			t.Fatalf("there is no steering for %s", address)
		}
		if got := s.socket.Addr().String(); got != l.Addr().String() {
			t.Errorf("the steering's socket is at %s, want %s", got, l.Addr())
		}
		s.close()
		l.Close()
	}
}

// Caddy's listeners of one Unix socket have different types.
func TestListenersOfAUnixSocketShareAGroup(t *testing.T) {
	address := "unix/" + filepath.Join(t.TempDir(), "s")
	old, heir := Listen(listenAt(t, address), Settings{}), Listen(listenAt(t, address), Settings{})
	if old.group != heir.group {
		t.Error("the listeners are in different groups")
	}
	for _, l := range []*Listener{old, heir} {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

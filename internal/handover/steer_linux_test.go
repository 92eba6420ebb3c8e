package handover

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/internal/conn"
)

// listenAt listens as Caddy does, at a port that sockets can share. bare is what Caddy's listener has inside.
func listenAt(t *testing.T, address string) (l, bare net.Listener) {
	t.Helper()
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := a.Listen(t.Context(), 0, net.ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	l = opened.(net.Listener)
	return l, conn.BareListener(l)
}

// accept accepts connections and greets each.
func accept(inner, bare net.Listener) *Listener {
	l := Listen(inner, Settings{Bare: bare})
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

// The sockets of one address are replaced so often that too many linger. Those that were closed a moment ago linger on,
// because clients may be connecting to them.
func TestTooManyLingeringSockets(t *testing.T) {
	const young = 3
	a := accept(listenAt(t, "tcp/127.0.0.1:0"))
	address, g := a.Addr().String(), a.group
	var closed []*Listener
	for i := range maxLingering {
		next := accept(listenAt(t, "tcp/"+address))
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		closed = append(closed, a)
		a = next
		g.mu.Lock()
		closed[i].closedAt = time.Now().Add(time.Minute) // an early timer changes nothing
		if i == maxLingering-young {
			for _, l := range closed {
				l.closedAt = time.Now().Add(-lingering)
			}
		}
		g.mu.Unlock()
	}
	next := accept(listenAt(t, "tcp/"+address))
	g.mu.Lock()
	if !slices.Equal(g.lingering, closed[maxLingering-young+1:]) {
		t.Errorf("%d sockets linger, want the last %d", len(g.lingering), young-1)
	}
	for _, l := range closed {
		l.closedAt = time.Now().Add(-lingering)
	}
	g.mu.Unlock()
	if err := greet(t.Context(), address); err != nil {
		t.Error(err)
	}
	Announce()
	if g.endLingering(); len(g.lingering) == 0 {
		t.Error("the sockets close while another one may open")
	}
	announced.Store(nil)
	g.endLingering()
	if err := greet(t.Context(), address); err != nil {
		t.Error(err)
	}
	if len(g.sockets) != 3 {
		t.Errorf("%d sockets are left, want 3", len(g.sockets))
	}
	for _, l := range []*Listener{a, next} {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A countingListener counts the connections that its socket accepts.
type countingListener struct {
	net.Listener

	n atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return conn, err
}

// TestTheKernelsOrderIsKnown: on a busy machine, a listener closes while another one has its socket but is not in the group yet.
// If that closed sockets, the group would no longer know their order, and steer connections to a socket that closes next.
func TestTheKernelsOrderIsKnown(t *testing.T) {
	listen := func(address string) (*countingListener, net.Listener) {
		l, bare := listenAt(t, address)
		return &countingListener{Listener: l}, bare
	}
	a := accept(listen("tcp/127.0.0.1:0"))
	address, g := "tcp/"+a.Addr().String(), a.group
	for range maxLingering - 1 {
		next := accept(listen(address))
		_ = a.Close()
		a = next
		g.mu.Lock()
		for _, l := range g.lingering {
			l.closedAt = time.Now().Add(-lingering)
		}
		g.mu.Unlock()
	}
	b := accept(listen(address))
	socket, bare := listen(address)
	_ = a.Close()
	c := accept(socket, bare)
	g.mu.Lock()
	sockets := slices.Clone(g.sockets)
	g.mu.Unlock()
	if len(sockets) > maxLingering/2 {
		t.Errorf("%d sockets are open", len(sockets))
	}
	for i, s := range sockets {
		l, ok := s.(*Listener)
		if !ok {
			continue
		}
		counting := l.Listener.(*countingListener)
		before := counting.n.Load()
		g.steering.to(i)
		if err := greet(t.Context(), c.Addr().String()); err != nil {
			t.Error(err)
		}
		if counting.n.Load() == before {
			t.Errorf("the socket at index %d is another one", i)
		}
	}
	for _, l := range []*Listener{b, c} {
		_ = l.Close()
	}
}

// TestTooManyLinger checks which sockets go. Too many never linger, however fast they come.
func TestTooManyLinger(t *testing.T) {
	now := time.Now()
	for _, test := range []struct{ old, young, want int }{
		{3, 0, 0},
		{maxLingering - 1, 0, 0},
		{maxLingering - 1, 1, maxLingering - 1},
		{maxLingering - 3, 3, maxLingering - 3},
		{1, maxLingering, 1 + maxLingering/2},
		{0, maxLingering, maxLingering / 2},
	} {
		var lingers []*Listener
		for range test.old {
			lingers = append(lingers, &Listener{closedAt: now.Add(-lingering)})
		}
		for range test.young {
			lingers = append(lingers, &Listener{closedAt: now.Add(-lingering / 2)})
		}
		if got := tooMany(lingers, now); got != test.want {
			t.Errorf("of %d old sockets and %d young ones, %d close, want %d", test.old, test.young, got, test.want)
		}
	}
}

func TestSocketOfCaddysListener(t *testing.T) {
	l, bare := listenAt(t, "tcp/127.0.0.1:0")
	defer l.Close()
	if _, ok := bare.(*net.TCPListener); !ok {
		t.Errorf("no socket was found in a %T", l)
	}
}

// A site that listens on one kind of address does not listen on others when it steers.
func TestSteeringListensWhereTheOthersDo(t *testing.T) {
	for address, network := range map[string]string{
		"tcp4/0.0.0.0:0": "tcp4", "tcp6/[::]:0": "tcp6", "tcp/[::]:0": "tcp", "tcp/127.0.0.1:0": "tcp4",
	} {
		l, bare := listenAt(t, address)
		if got := sharedNetwork(bare.(*net.TCPListener)); got != network {
			t.Errorf("the network of %s is %q, want %q", address, got, network)
		}
		s := newSteering(bare, net.KeepAliveConfig{}, func(net.Conn) {})
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
	listen := func() *Listener {
		l, bare := listenAt(t, address)
		return Listen(l, Settings{Bare: bare})
	}
	old, heir := listen(), listen()
	if old.group != heir.group {
		t.Error("the listeners are in different groups")
	}
	for _, l := range []*Listener{old, heir} {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

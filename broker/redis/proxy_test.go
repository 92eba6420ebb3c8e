package redis_test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A proxy stands between a client and a server, and fails as networks do.
type proxy struct {
	address string // host:port
	target  string // host:port, or the path of a Unix socket
	listens net.Listener

	mu    sync.Mutex
	links map[*link]bool
	cut   bool          // no connection gets through
	delay time.Duration // of each direction
	// edits changes what clients get, without changing its length; nil if nothing does.
	edits func(data string) string
	// stalled says that nothing moves on connections that are open now, nor on new ones. Nothing is closed and nothing is lost.
	stalled *sync.Cond
	stops   bool
}

// A link is one connection through a proxy.
type link struct {
	proxy          *proxy
	client, server net.Conn
	closed         chan struct{}
	once           sync.Once
	// What the client gets, by the proxy's lock.
	loses  func(data string) bool
	pubsub bool // it has subscribed
	stops  bool // it alone is stalled
	holds  bool // the client gets nothing; what it sends gets through
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), target: target, listens: l, links: map[*link]bool{}}
	p.stalled = sync.NewCond(&p.mu)
	go p.accept()
	t.Cleanup(func() {
		_ = l.Close()
		p.change(func() { p.cut = true })
	})
	return p
}

func (p *proxy) accept() {
	for {
		c, err := p.listens.Accept()
		if err != nil {
			return
		}
		network := "tcp"
		if strings.HasPrefix(p.target, "/") {
			network = "unix"
		}
		p.mu.Lock()
		cut := p.cut
		p.mu.Unlock()
		s, err := net.Dial(network, p.target)
		if err != nil || cut {
			_ = c.Close()
			if s != nil {
				_ = s.Close()
			}
			continue
		}
		l := &link{proxy: p, client: c, server: s, closed: make(chan struct{})}
		p.mu.Lock()
		p.links[l] = true
		p.mu.Unlock()
		go l.pump(c, s, false)
		go l.pump(s, c, true)
	}
}

// change changes what the proxy does.
func (p *proxy) change(f func()) {
	p.mu.Lock()
	f()
	p.stalled.Broadcast()
	var links []*link
	if p.cut {
		for l := range p.links {
			links = append(links, l)
		}
	}
	p.mu.Unlock()
	for _, l := range links {
		l.close()
	}
}

// subscribed returns the connections that have subscribed to something.
func (p *proxy) subscribed() (links []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.pubsub {
			links = append(links, l)
		}
	}
	return links
}

func (l *link) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func (l *link) close() {
	l.once.Do(func() {
		_ = l.client.Close()
		_ = l.server.Close()
		close(l.closed)
		l.proxy.mu.Lock()
		delete(l.proxy.links, l)
		l.proxy.stalled.Broadcast()
		l.proxy.mu.Unlock()
	})
}

// pump copies from one side to the other. toClient tells which side that is.
func (l *link) pump(from, to net.Conn, toClient bool) {
	defer l.close()
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 10_000)
	go func() {
		defer l.close()
		for {
			select {
			case p := <-pieces:
				time.Sleep(time.Until(p.due))
				if _, err := to.Write(p.data); err != nil {
					return
				}
			case <-l.closed:
				return
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		data := string(buffer[:n])
		if toClient && l.proxy.edits != nil {
			data = l.proxy.edits(data)
		}
		if l.pass(data, toClient) {
			select {
			case pieces <- piece{time.Now().Add(l.proxy.currentDelay()), []byte(data)}:
			case <-l.closed:
				return
			}
		}
		if l.isClosed() {
			return
		}
	}
}

func (p *proxy) currentDelay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

// pass waits while the connection is stalled, and reports whether the data gets through.
func (l *link) pass(data string, toClient bool) bool {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	if !toClient && strings.Contains(data, "SUBSCRIBE") {
		l.pubsub = true
	}
	for (p.stops || l.stops || l.holds && toClient) && !l.isClosed() {
		p.stalled.Wait()
	}
	if !toClient {
		return true
	}
	return l.loses == nil || !l.loses(data)
}

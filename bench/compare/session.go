package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// A session is one run of one work against one server. Each session starts its own server.
type session struct {
	peer     *peer
	server   *process
	nodes    []*process    // all servers, server among them
	store    *redisServer  // which the nodes share; nil if there is none
	duration time.Duration // how long to measure
	profiles string        // the path prefix of the run's profiles; empty for none

	counter *load.Counter
	open    []io.Closer
}

func (s *session) close() {
	for _, c := range s.open {
		_ = c.Close()
	}
	for _, node := range s.nodes {
		node.stop()
	}
	if s.store != nil {
		s.store.stop()
	}
}

// body returns the body of a message: 100 bytes of JSON with the mark by which messages are counted.
func body() string {
	const text = `{"user":"ada","text":"the quick brown fox jumps over the lazy dog, and the dog does not mind","~":1}`
	return text
}

// stampedBody returns a body that has the time it was made.
func stampedBody() string {
	return `{"user":"ada","text":"the quick brown fox jumps over the lazy dog","~` + load.Stamp() + `":1}`
}

// dial opens a connection. The session closes it at its end.
func (s *session) dial() (*load.Conn, error) {
	conn, err := load.Dial(s.server.address)
	if err != nil {
		return nil, err
	}
	s.open = append(s.open, conn)
	return conn, nil
}

// read makes n channels and opens a reader over HTTP/1.1 for each. The readers count what arrives.
func (s *session) read(n int) ([]channel, error) {
	if s.peer.channels == nil {
		return nil, nil
	}
	cs, err := s.peer.channels(s.server.address, n)
	if err != nil {
		return nil, err
	}
	return cs, s.subscribe(cs, "http")
}

// subscribe opens a reader for each channel.
func (s *session) subscribe(cs []channel, transport string) error {
	if transport == "h2" {
		return s.subscribeH2(cs)
	}
	for _, c := range cs {
		conn, err := s.dial()
		if err != nil {
			return err
		}
		if err := conn.Stream(load.Get(c.path, s.peer.headers[transport]...), s.counter); err != nil {
			return err
		}
	}
	return nil
}

// streamsPerConn is how many HTTP/2 streams share a connection.
const streamsPerConn = 100

func (s *session) subscribeH2(cs []channel) error {
	for len(cs) > 0 {
		n := min(streamsPerConn, len(cs))
		paths := make([]string, n)
		for i := range paths {
			paths[i] = cs[i].path
		}
		var conn net.Conn
		conn, err := load.StreamsH2(s.server.address, paths, s.counter)
		if err != nil {
			return err
		}
		s.open = append(s.open, conn)
		cs = cs[n:]
	}
	return nil
}

// A loop makes one request and returns how many units of work that was. It is called again and again with the same
// connection, which no other loop uses.
type loop func(conn *load.Conn) (int64, error)

// repeat returns a loop that makes the same request each time. It fails unless the reply's status is a success.
func repeat(r load.Request, units int64) loop {
	return func(conn *load.Conn) (int64, error) {
		status, body, err := conn.Do(r)
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return units, err
	}
}

// A closedLoop runs several loops at once, each as fast as its replies arrive.
type closedLoop struct {
	session *session
	running sync.WaitGroup
	stopped atomic.Bool
	done    atomic.Int64 // units of work that have a reply

	once  sync.Once
	fault error
}

func (s *session) run(loops []loop) (*closedLoop, error) {
	l := &closedLoop{session: s}
	for _, next := range loops {
		conn, err := s.dial()
		if err != nil {
			return nil, err
		}
		l.running.Go(func() {
			for !l.stopped.Load() {
				n, err := next(conn)
				if err != nil {
					l.once.Do(func() { l.fault = err })
					return
				}
				l.done.Add(n)
			}
		})
	}
	return l, nil
}

// stop ends the loops, waits for them, and returns the first error.
func (l *closedLoop) stop() error {
	l.stopped.Store(true)
	l.running.Wait()
	return l.fault
}

// warmUp is how long a load runs before the measurement begins.
const warmUp = 500 * time.Millisecond

// perCPU runs loops. It returns by how much count grows per second of the server's CPU time.
func (s *session) perCPU(ctx context.Context, loops []loop, count func(*closedLoop) int64) (float64, error) {
	l, err := s.run(loops)
	if err != nil {
		return 0, err
	}
	time.Sleep(warmUp)
	cpu, n, err := s.measure(ctx, func() int64 { return count(l) })
	if err := errors.Join(err, l.stop()); err != nil {
		return 0, err
	}
	return float64(n) / cpu.Seconds(), nil
}

// cpu returns the CPU time of what is measured: the server, or the store that the servers share.
func (s *session) cpu() (time.Duration, error) {
	if s.store != nil {
		return s.store.cpu()
	}
	return s.server.cpu()
}

// measure returns how much CPU time the server uses during the session's duration, and by how much count grows.
func (s *session) measure(ctx context.Context, count func() int64) (time.Duration, int64, error) {
	var taken sync.WaitGroup
	if s.profiles != "" {
		taken.Go(func() {
			s.profile(ctx, "cpu", fmt.Sprintf("profile?seconds=%d", max(1, int(s.duration.Seconds()))))
			s.profile(ctx, "allocs", "allocs")
		})
	}
	n := -count()
	cpu, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(s.duration)
	n += count()
	after, err := s.cpu()
	taken.Wait()
	return after - cpu, n, err
}

// settle waits until the server has finished earlier work, such as collecting garbage.
func (s *session) settle() error {
	const look, idle = 500 * time.Millisecond, 20 * time.Millisecond
	before, err := s.server.cpu()
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); {
		time.Sleep(look)
		var now time.Duration
		if now, err = s.server.cpu(); now-before <= idle {
			return err
		}
		before = now
	}
	if err != nil {
		return err
	}
	return errors.New("the server does not come to rest")
}

// profile takes a profile of the server. If that fails, it only prints the error.
func (s *session) profile(ctx context.Context, name, path string) {
	if err := s.server.profile(ctx, path, s.profiles+"."+name+".pprof"); err != nil {
		fmt.Println("no profile:", err)
	}
}

// delivered waits until all written messages have arrived. It fails after 5 seconds.
func (s *session) delivered(written int64) error {
	for deadline := time.Now().Add(5 * time.Second); s.counter.N() != written; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d messages were written, %d have arrived", written, s.counter.N())
		}
	}
	return nil
}

// newSession starts the servers for a work.
func newSession(ctx context.Context, p *peer, w *work, o options) (*session, error) {
	s := &session{peer: p, duration: o.duration, counter: load.NewCounter()}
	settings := w.settings
	if o.profiles != "" && p.name != "nchan" {
		settings.profile = true
		s.profiles = filepath.Join(o.profiles, w.key+"."+p.name)
	}
	core := serverCore
	if w.bothCores {
		core = bothCores
	}
	if p.shared {
		var err error
		if s.store, err = startRedis(ctx, o.dir); err != nil {
			return nil, err
		}
		settings.redis, core = s.store.socket, loadCore
		if w.bothCores {
			core = bothCores
		}
	}
	for range max(1, w.nodes) {
		node, err := start(ctx, p, settings, core, o.dir)
		if err != nil {
			s.close()
			return nil, err
		}
		s.nodes = append(s.nodes, node)
	}
	s.server = s.nodes[0]
	return s, nil
}

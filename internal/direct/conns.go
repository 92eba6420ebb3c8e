package direct

import "sync"

// Conns are the hijacked connections of a configuration. The zero value is ready to use. Any number of goroutines may use
// it.
type Conns struct {
	mu    sync.Mutex
	conns map[*producerConn]struct{}
}

func (s *Conns) add(c *producerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*producerConn]struct{}{}
	}
	s.conns[c] = struct{}{}
}

func (s *Conns) remove(c *producerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// End makes all connections go back to their servers, or to the servers that have replaced these. End does not wait. A
// connection that has begun to read a request first serves this request, if the rest arrives within a second.
func (s *Conns) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.interrupt()
	}
}

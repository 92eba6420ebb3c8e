package delivery

import (
	"net/http"
	"sync"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/netturn"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// Detach makes a read over HTTP/1.1 independent of its handler, and reports whether it did. Then the handler may return,
// and somebody else must call Deliver. That saves most of the memory of a waiting reader (docs/performance.md). Call
// Detach after Start, with the writer and the request of the handler.
//
// Detach happens only where nobody is worse off: no writer between the handler and the server may count or change the
// response, as an access log does, and Caddy must not limit how long a response takes. When the client goes away, the read
// is woken and ends.
func (d *Delivery) Detach(w http.ResponseWriter, r *http.Request) bool {
	t, ok := d.transport.(transport.Detachable)
	if !ok || !conn.IsBare(w, r) {
		return false
	}
	c := conn.Of(r)
	return c != nil && t.Detach(r, c, d.wake)
}

// DetachedStreams are the detached streams of a configuration. They end soon after the configuration is replaced. The zero
// value is ready to use. Any number of goroutines may use it.
type DetachedStreams struct {
	mu      sync.Mutex
	streams map[*Delivery]struct{}
}

// Add adds a delivery. It does nothing if the delivery need not end when its configuration is replaced: see
// [Options].Unloaded. Call it before the delivery may be parked.
func (s *DetachedStreams) Add(d *Delivery) {
	if d.unloaded == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		s.streams = map[*Delivery]struct{}{}
	}
	s.streams[d] = struct{}{}
}

// Remove removes a delivery that has ended. It does nothing if the delivery was not added.
func (s *DetachedStreams) Remove(d *Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, d)
}

// Wake wakes all streams that are parked, so that they notice that [Options].Unloaded is closed. Close that first. Wake
// proceeds a few streams at a time, since each of them has a goroutine for a moment.
func (s *DetachedStreams) Wake() {
	s.mu.Lock()
	streams := make([]*Delivery, 0, len(s.streams))
	for d := range s.streams {
		streams = append(streams, d)
	}
	s.mu.Unlock()
	pace := netturn.Every(64)
	for _, d := range streams {
		go d.wake()
		pace.Woke(1)
	}
}

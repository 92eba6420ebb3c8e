package megaphone

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// shared is what outlives configurations: the channels, and what is counted over all of them.
type shared struct {
	*Registry

	metrics  *metrics
	warnings warnings
	active   activeApps

	slowed  atomic.Int32 // clients that wait in slowDown
	sockets atomic.Int32 // open WebSockets, which Caddy does not wait for when it exits
}

// pool holds the one shared under poolKey, which is the same whatever the settings are.
var pool = caddy.NewUsagePool()

const poolKey = "memory"

func newShared() *shared {
	r := NewRegistry()
	s := &shared{Registry: r, metrics: newMetrics(r), warnings: newWarnings(limitNames)}
	r.OnDeletions(s.active.announceDeletions)
	return s
}

// Destruct implements [caddy.Destructor]. It is called when the last configuration is gone.
func (s *shared) Destruct() error {
	s.Close()
	return nil
}

// maxFarewell is how long the exit of the process waits for WebSockets to be closed.
const maxFarewell = 500 * time.Millisecond

// awaitSockets waits until all WebSockets are closed, within bounds.
func (s *shared) awaitSockets() {
	for deadline := time.Now().Add(maxFarewell); s.sockets.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// slowDown makes a client wait that would otherwise repeat its request in a loop: existing clients do that when
// a read is refused (protocol.md, part 3). Not too many at once are made to wait.
func (s *shared) slowDown(ctx context.Context) {
	defer s.slowed.Add(-1)
	if s.slowed.Add(1) > maxSlowed {
		return
	}
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.Closed():
	}
}

// maxSlowed is how many clients wait in slowDown at once.
const maxSlowed = 1000

// cutOffAtExit makes a request's body fail when the process exits, since Caddy would wait for its end. The
// returned function must be called when the body is no longer read.
func (s *shared) cutOffAtExit(w http.ResponseWriter) (stop func()) {
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-done:
			return
		case <-s.Closed():
		}
		// Caddy's own writers set deadlines too, and may only be used by the handler's goroutine. So the
		// deadline is set below them, and again in case they have set it to a later time.
		control := http.NewResponseController(innermost(w))
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for control.SetReadDeadline(time.Unix(1, 0)) == nil {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	})
	return func() {
		close(done)
		watch.Wait()
	}
}

// innermost returns the server's own writer, without what was put around it.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapped.Unwrap()
	}
}

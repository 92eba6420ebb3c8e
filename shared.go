package megaphone

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// shared is what outlives configurations: the channels, and what is counted over all of them.
type shared struct {
	*Registry

	metrics   *metrics
	warnings  warnings
	active    activeApps
	deletions deletionQueue
	heap      heapGuard

	closing  context.Context // ends when Close is called
	close    context.CancelFunc
	closedAt atomic.Pointer[time.Time]

	slowed  atomic.Int32 // clients that wait in slowDown
	sockets atomic.Int32 // WebSockets and detached reads, which Caddy does not wait for when it exits
}

// pool holds the one shared under poolKey, which is the same whatever the settings are.
var pool = caddy.NewUsagePool()

const poolKey = "memory"

func newShared() *shared {
	r := NewRegistry()
	s := &shared{Registry: r, metrics: newMetrics(r), warnings: newWarnings(limitNames)}
	s.deletions.wake, s.deletions.done = make(chan struct{}, 1), make(chan struct{})
	s.closing, s.close = context.WithCancel(context.Background())
	s.heap.messages = func() int64 { return r.memory.buffered.Load() + r.memory.held.Load() }
	r.OnDeletions(s.announceDeletions)
	go s.emitDeletions()
	return s
}

// Close ends all reads and waits, as the process exits or the module is no longer configured.
func (s *shared) Close() {
	now := time.Now()
	s.closedAt.CompareAndSwap(nil, &now)
	s.Registry.Close()
	s.close()
}

// Destruct implements [caddy.Destructor]. It is called when the last configuration is gone.
func (s *shared) Destruct() error {
	s.Close()
	return nil
}

// maxExit is how long all waits of the exit may take together, so that the process is gone within a second.
const maxExit = 900 * time.Millisecond

// exitTime is how much of a time the exit has left for a wait.
func (s *shared) exitTime(limit time.Duration) time.Duration {
	if closedAt := s.closedAt.Load(); closedAt != nil {
		limit = min(limit, maxExit-time.Since(*closedAt))
	}
	return max(limit, 10*time.Millisecond)
}

// maxFarewell is how long the exit of the process waits for clients to take what they are sent last.
const maxFarewell = socket.MaxFarewell

// maxFarewells is how long it waits in all, as long as there are fewer and fewer of them.
const maxFarewells = 700 * time.Millisecond

// awaitSockets waits until all connections are closed that Caddy does not wait for, within bounds.
func (s *shared) awaitSockets() {
	began, limit := time.Now(), s.exitTime(maxFarewells)
	left, progress := s.sockets.Load(), began
	for left > 0 && time.Since(progress) < maxFarewell && time.Since(began) < limit {
		time.Sleep(time.Millisecond)
		if n := s.sockets.Load(); n < left {
			left, progress = n, time.Now()
		}
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

// cutOffReading makes the reading of a request's body fail when the process exits, since Caddy would wait for its
// end. The returned function must be called when the body is no longer read.
func (s *shared) cutOffReading(w http.ResponseWriter) (stop func()) {
	control := http.NewResponseController(innermost(w))
	return s.whenClosed(0, func() error { return control.SetReadDeadline(time.Unix(1, 0)) })
}

// cutOffWriting does the same for what is written to a client that takes nothing, after some time for those that do.
// On HTTP/2 that ends the stream only if its connection takes something, which is closed otherwise.
func (s *shared) cutOffWriting(w http.ResponseWriter, r *http.Request) (stop func()) {
	control, conn := http.NewResponseController(innermost(w)), connOf(r)
	var began time.Time
	return s.whenClosed(maxFarewell, func() error {
		if began.IsZero() {
			began = time.Now()
		}
		if r.ProtoMajor == 2 && conn != nil && time.Since(began) > maxFarewell {
			return conn.Close()
		}
		return control.SetWriteDeadline(time.Unix(1, 0))
	})
}

// whenClosed calls cut some time after Close, and again and again until the returned function is called: Caddy's own
// writers set deadlines too. They may only be used by the handler's goroutine, so what is cut is below them.
func (s *shared) whenClosed(after time.Duration, cut func() error) (stop func()) {
	ended := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Add(1)
	cancel := context.AfterFunc(s.closing, func() {
		defer cutting.Done()
		timer := time.NewTimer(after)
		defer timer.Stop()
		for {
			select {
			case <-ended:
				return
			case <-timer.C:
			}
			if cut() != nil {
				return
			}
			timer.Reset(10 * time.Millisecond)
		}
	})
	return func() {
		close(ended)
		if !cancel() {
			cutting.Wait()
		}
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

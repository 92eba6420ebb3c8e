package megaphone

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// maxExit is how long all waits of the exit may take together, so that the process is gone within a second.
const maxExit = 900 * time.Millisecond

// exitTime is how much of a time the exit has left for a wait.
func (s *registry) exitTime(limit time.Duration) time.Duration {
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
func (s *registry) awaitSockets() {
	began, limit := time.Now(), s.exitTime(maxFarewells)
	left, progress := s.sockets.Load(), began
	for left > 0 && time.Since(progress) < maxFarewell && time.Since(began) < limit {
		time.Sleep(time.Millisecond)
		if n := s.sockets.Load(); n < left {
			left, progress = n, time.Now()
		}
	}
}

// cutOffReading makes the reading of a request's body fail when the process exits, since Caddy would wait for its
// end. The returned function must be called when the body is no longer read.
func (s *registry) cutOffReading(w http.ResponseWriter) (stop func()) {
	control := http.NewResponseController(conn.Innermost(w))
	return s.whenClosed(0, func() error { return control.SetReadDeadline(time.Unix(1, 0)) })
}

// cutOffWriting does the same for what is written to a client that takes nothing, after some time for those that do.
// On HTTP/2 that ends the stream only if its connection takes something, which is closed otherwise.
func (s *registry) cutOffWriting(w http.ResponseWriter, r *http.Request) (stop func()) {
	control, c := http.NewResponseController(conn.Innermost(w)), conn.Of(r)
	var began time.Time
	return s.whenClosed(maxFarewell, func() error {
		if began.IsZero() {
			began = time.Now()
		}
		if r.ProtoMajor == 2 && c != nil && time.Since(began) > maxFarewell {
			return c.Close()
		}
		return control.SetWriteDeadline(time.Unix(1, 0))
	})
}

// whenClosed calls cut some time after Close, and again and again until the returned function is called: Caddy's own
// writers set deadlines too. They may only be used by the handler's goroutine, so what is cut is below them.
func (s *registry) whenClosed(after time.Duration, cut func() error) (stop func()) {
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

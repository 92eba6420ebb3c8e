package megaphone

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// maxExit is how long all waits at the exit of the process may take together, so that it is gone within a second.
const maxExit = 900 * time.Millisecond

// exitTime returns how long a wait at the exit may take: the given limit, or less if little time is left.
func (s *registry) exitTime(limit time.Duration) time.Duration {
	if closedAt := s.closedAt.Load(); closedAt != nil {
		limit = min(limit, maxExit-time.Since(*closedAt))
	}
	return max(limit, 10*time.Millisecond)
}

// maxExitEnds is how long the exit waits for topics to close whose producers are still streaming.
const maxExitEnds = 200 * time.Millisecond

// maxExitWrite is how long the exit waits for a client to take the end of its response.
const maxExitWrite = socket.MaxExitWrite

// maxExitWrites is how long the exit waits for all clients, as long as their number keeps falling.
const maxExitWrites = 700 * time.Millisecond

// awaitSockets waits, within bounds, until all connections are closed that Caddy does not wait for.
func (s *registry) awaitSockets() {
	began, limit := time.Now(), s.exitTime(maxExitWrites)
	left, progress := s.sockets.Load(), began
	for left > 0 && time.Since(progress) < maxExitWrite && time.Since(began) < limit {
		time.Sleep(time.Millisecond)
		if n := s.sockets.Load(); n < left {
			left, progress = n, time.Now()
		}
	}
}

// cutOffWriting makes writes to a client that takes nothing fail when the process exits: Caddy would wait for their end. It
// first leaves some time to clients that do take something. On HTTP/2 this ends the stream only if the connection takes
// something. If it does not, it is closed. The caller must call the returned function when it stops writing.
func (s *registry) cutOffWriting(w http.ResponseWriter, r *http.Request) (stop func()) {
	control, c := http.NewResponseController(conn.Innermost(w)), conn.Of(r)
	var began time.Time
	return s.whenClosed(maxExitWrite, func() error {
		if began.IsZero() {
			began = time.Now()
		}
		if r.ProtoMajor == 2 && c != nil && time.Since(began) > maxExitWrite {
			return c.Close()
		}
		return control.SetWriteDeadline(time.Unix(1, 0))
	})
}

// whenClosed calls cut some time after Close. It calls it again and again, until the caller calls the returned function,
// because Caddy's own writers set deadlines too. Only the handler's goroutine may use those writers, so cut must act on what
// is below them.
func (s *registry) whenClosed(after time.Duration, cut func() error) (stop func()) {
	ended := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Add(1)
	cancel := context.AfterFunc(s.closing, func() {
		defer cutting.Done()
		defer guard.Recover(guard.Exit)
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

// afterIdle is how long after idle connections reads end at the exit, unless the grace period is short. Clients read again at
// once, and must not choose a connection that is just being closed.
const afterIdle = 100 * time.Millisecond

// serverStops is called when a server begins to shut down: it closes its listeners and idle connections now.
func (a *App) serverStops() {
	if !caddy.Exiting() {
		return
	}
	delay := afterIdle
	if app, err := a.ctx.AppIfConfigured("http"); err == nil && app.(*caddyhttp.App).GracePeriod > 0 {
		delay = min(delay, time.Duration(app.(*caddyhttp.App).GracePeriod)/2)
	}
	a.closeAfter(delay)
}

func (a *App) closeAfter(delay time.Duration) {
	time.AfterFunc(delay, func() {
		defer guard.Recover(guard.Exit)
		a.close()
	})
}

package megaphone

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
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

// maxExitCloses is how long the exit waits for topics to close whose producers are still streaming.
const maxExitCloses = 200 * time.Millisecond

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

// topicClosers are those that are open, so that the exit of the process closes their topics while there is still a Broker.
type topicClosers struct {
	mu   sync.Mutex
	open map[*topicCloser]struct{}
	over bool // no more may be added
}

// add adds one. It fails with [broker.ErrClosed] after abort.
func (cs *topicClosers) add(c *topicCloser) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.over {
		return broker.ErrClosed
	}
	if cs.open == nil {
		cs.open = map[*topicCloser]struct{}{}
	}
	cs.open[c] = struct{}{}
	return nil
}

func (cs *topicClosers) remove(c *topicCloser) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
}

// abort closes the topics of all that are open as aborted, within a time.
func (cs *topicClosers) abort(limit time.Duration) {
	cs.mu.Lock()
	cs.over = true
	open := make([]*topicCloser, 0, len(cs.open))
	for c := range cs.open {
		open = append(open, c)
	}
	cs.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range open {
		closing.Add(1)
		guard.Go(guard.Exit, func() {
			defer closing.Done()
			_ = c.close(broker.EndAborted, limit) // the log has it
		})
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		closing.Wait()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C: // a Broker that does not answer
	}
}

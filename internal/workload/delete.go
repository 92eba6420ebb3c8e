package workload

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Announcements are what a site's webhook channel_deleted has told. They are the handler for its requests. The zero value
// is ready to use. Its methods may be called by many goroutines at once.
type Announcements struct {
	mu          sync.Mutex
	undelivered map[string]int // by consumer address
}

// ServeHTTP takes an announcement. A channel that is announced again is the same channel: the first count holds.
func (a *Announcements) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct{ Undelivered map[string]int }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.undelivered == nil {
		a.undelivered = map[string]int{}
	}
	for consumer, n := range body.Undelivered {
		if _, ok := a.undelivered[consumer]; !ok {
			a.undelivered[consumer] = n
		}
	}
}

// count returns how many messages of a channel were not delivered, if its deletion was announced.
func (a *Announcements) count(consumer string) (n int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, ok = a.undelivered[consumer]
	return n, ok
}

// delete deletes the channel at some time of the run, while the producer writes, and then stops the producer. A server may be
// down, so it repeats the request until the channel is not there any more.
func (s *session) delete(ctx context.Context, random *rand.Rand) {
	defer s.stop()
	select {
	case <-time.After(time.Duration(random.Int64N(int64(s.Time)))):
	case <-ctx.Done():
	}
	_ = s.Leave(s.name, "", func() error {
		err := s.insist(ctx, http.MethodDelete, "/channel/"+s.consumerAddress, nil)
		if errors.Is(err, errNotFound) && !s.FullDelete {
			return nil // an attempt that had no answer has deleted it
		}
		return err
	})
	time.Sleep(2 * s.Pause) // the producer learns of it
}

// announced reports whether the deletion of the channel was announced, and records it.
func (s *session) announced() bool {
	if s.Announced == nil {
		return false
	}
	n, ok := s.Announced.count(s.consumerAddress)
	if ok && !s.noted {
		s.noted = true
		s.Delete(s.name, n)
	}
	return ok
}

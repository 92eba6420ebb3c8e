package webhook

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// maxLinger is how long a sender may take to empty its queue after the webhook was removed.
	maxLinger = 30 * time.Second
	// MaxExitLinger is how long the exit of the process should let senders empty their queues.
	MaxExitLinger = 500 * time.Millisecond
)

var (
	errGivenUp = errors.New("the server stops, or the webhook is not configured any more")
	errRemoved = errors.New("the webhook is not configured any more")
)

// Destruct implements caddy.Destructor: call it once, when no configuration has the webhook any more. It does not wait.
// For 30 seconds at most, the sender still posts what is in its queue, and repeats requests sooner. The rest is lost.
// Until the queue is empty, Enqueue may add more.
func (s *Sender) Destruct() error {
	finishing.add(s)
	s.finishBy = time.Now().Add(maxLinger)
	s.remove(errRemoved)
	time.AfterFunc(maxLinger, func() { s.giveUp(errGivenUp) })
	return nil
}

// Wait waits until all senders that are destructed have emptied their queues, limit at most. What is left then is lost. Wait
// is for the exit of the process. Any goroutine may call it.
func Wait(limit time.Duration) { finishing.wait(limit) }

// finishing has the senders that were destructed and have not ended.
var finishing senderSet

type senderSet struct {
	mu      sync.Mutex
	senders map[*Sender]struct{}
}

// add adds a sender until it has ended.
func (f *senderSet) add(s *Sender) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.senders == nil {
		f.senders = map[*Sender]struct{}{}
	}
	f.senders[s] = struct{}{}
	go func() {
		<-s.done
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.senders, s)
	}()
}

// wait waits until all senders have ended. After limit, it makes them end.
func (f *senderSet) wait(limit time.Duration) {
	f.mu.Lock()
	senders := slices.Collect(maps.Keys(f.senders))
	f.mu.Unlock()
	deadline := time.After(limit)
	for _, s := range senders {
		select {
		case <-s.done:
			continue
		case <-deadline:
		}
		for _, s := range senders {
			s.giveUp(errGivenUp)
		}
		break
	}
	for _, s := range senders {
		<-s.done // at once, since the sender was made to give up
	}
}

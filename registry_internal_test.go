package megaphone

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker/memory"
)

// TestNotTooManyRefusedReadsWait checks that at most maxSlowed clients wait in slowDown. It tries that several times, so
// that a client that counts for ever would show.
func TestNotTooManyRefusedReadsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(memory.New())
		defer r.Close()
		const more = 10
		var waited, returned atomic.Int32
		var all sync.WaitGroup
		for range 3 {
			for range maxSlowed + more {
				all.Go(func() {
					start := time.Now()
					r.slowDown(t.Context())
					if time.Since(start) == time.Second {
						waited.Add(1)
					} else {
						returned.Add(1)
					}
				})
			}
			all.Wait()
			if waits, returns := waited.Swap(0), returned.Swap(0); waits != maxSlowed || returns != more {
				t.Errorf("%d clients wait and %d do not, want %d and %d", waits, returns, maxSlowed, more)
			}
		}
	})
}

// TestAReadOfAWrongPathIsSlowedDown: an existing client would repeat it at once, for ever.
func TestAReadOfAWrongPathIsSlowedDown(t *testing.T) {
	for query, want := range map[string]time.Duration{"": time.Second, "?poll=0": 0} {
		synctest.Test(t, func(t *testing.T) {
			s := newPipeServer(t)
			start := time.Now()
			status := <-s.status(s.get("/read/" + s.channel.Consumer + "/x" + query))
			if took := time.Since(start); status != http.StatusNotFound || took != want {
				t.Errorf("%q: status %d after %v, want %d after %v", query, status, took, http.StatusNotFound, want)
			}
		})
	}
}

package conn

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A strangeBody is a body that another handler has wrapped.
type strangeBody func(p []byte) (int, error)

func (b strangeBody) Read(p []byte) (int, error) { return b(p) }
func (strangeBody) Close() error                 { return nil }

// TestABodyThatPanicsIsForgotten: the exit must not touch the writer of a request that is long over. That of HTTP/2 panics then.
func TestABodyThatPanicsIsForgotten(t *testing.T) {
	bodies := NewBodies(errEnded)
	r := httptest.NewRequest(http.MethodPost, "/", strangeBody(func([]byte) (int, error) { panic("boom") }))
	bodies.Begin(httptest.NewRecorder(), r)
	func() {
		defer func() {
			if v := recover(); v != "boom" { // as net/http does
				t.Errorf("recovered %v", v)
			}
		}()
		_, _ = r.Body.Read(make([]byte, 1))
	}()
	for i := range bodies.shards {
		if bodies.shards[i].first != nil {
			t.Error("the body still counts as being read")
		}
	}
}

// A panickyWriter is a writer that another handler has wrapped, and that panics while something is asked of it.
type panickyWriter struct{ http.ResponseWriter }

func (panickyWriter) Unwrap() http.ResponseWriter { panic("boom") }

// A deadlineWriter is a writer that notes that a deadline was set.
type deadlineWriter struct {
	http.ResponseWriter

	set func()
}

func (w deadlineWriter) SetReadDeadline(time.Time) error { w.set(); return nil }

// TestAWriterThatPanicsKeepsTheExitFromNoOtherBody: timers call it then, whose panics would end the process.
func TestAWriterThatPanicsKeepsTheExitFromNoOtherBody(t *testing.T) {
	panics := make(chan guard.Place, 1000)
	before := guard.OnPanic(func(place guard.Place, _ any, _ []byte) { panics <- place })
	defer func() { guard.OnPanic(before) }()
	synctest.Test(t, func(*testing.T) {
		bodies := NewBodies(errEnded)
		ended := make(chan struct{})
		read := func(w http.ResponseWriter, until chan struct{}) (done chan struct{}) {
			done = make(chan struct{})
			r := httptest.NewRequest(http.MethodPost, "/", strangeBody(func([]byte) (int, error) {
				<-until
				return 0, io.ErrUnexpectedEOF
			}))
			bodies.Begin(w, r)
			go func() {
				defer close(done)
				_, _ = r.Body.Read(make([]byte, 1))
			}()
			return done
		}
		panicky := make(chan struct{})
		var dones []chan struct{}
		for range 2 * len(bodies.shards) { // so some are in one shard
			dones = append(dones, read(panickyWriter{}, panicky))
		}
		dones = append(dones, read(deadlineWriter{set: sync.OnceFunc(func() { close(ended) })}, ended))
		synctest.Wait()
		bodies.End()
		<-dones[len(dones)-1]
		close(panicky)
		for _, done := range dones {
			<-done
		}
	})
	if len(panics) == 0 || <-panics != guard.Exit {
		t.Error("no panic was reported")
	}
}

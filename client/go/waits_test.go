package megaphone_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// TestAReaderThatWasTakenOverLetsTheOtherRead: its last request would take the channel back, and so end the other one, too.
func TestAReaderThatWasTakenOverLetsTheOtherRead(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "")
	channel := create(t, c)
	write(t, c, channel, 0)
	second, taken := make(chan error, 1), make(chan struct{})
	options := megaphone.ReadOptions{Transport: megaphone.WebSocket, OnOpen: sync.OnceFunc(func() { close(taken) })}
	var last error
	for _, err := range c.Read(t.Context(), channel.ConsumerAddress, megaphone.ReadOptions{Transport: megaphone.WebSocket}) {
		if last = err; err != nil {
			break
		}
		go func() {
			for event, err := range c.Read(t.Context(), channel.ConsumerAddress, options) {
				if err != nil || string(event.Body) == "1" {
					second <- err
					return
				}
			}
		}()
		<-taken
	}
	if !errors.Is(last, megaphone.ErrTakenOver) {
		t.Errorf("the first read ended with %v", last)
	}
	write(t, c, channel, 1)
	if err := <-second; err != nil {
		t.Errorf("the second read ended with %v", err)
	}
}

// A roundTripper answers requests without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (f roundTripper) client() *megaphone.Client {
	return &megaphone.Client{URL: "http://127.0.0.1", HTTP: &http.Client{Transport: f}}
}

// TestPollsThatAreAnsweredAtOnceArePaced: two consumers that poll one channel take it from each other.
func TestPollsThatAreAnsweredAtOnceArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polls := 0
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		c := roundTripper(func(*http.Request) (*http.Response, error) {
			if polls++; polls == 10 {
				cancel(enough)
			}
			header := http.Header{"Content-Type": {"application/x-ndjson"}}
			return &http.Response{StatusCode: http.StatusOK, Header: header, Body: http.NoBody}, nil
		}).client()
		begun := time.Now()
		for _, err := range c.Read(ctx, "c.x", megaphone.ReadOptions{Transport: megaphone.Poll}) {
			if !errors.Is(err, enough) {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took != 9*time.Second {
			t.Errorf("10 polls took %v", took)
		}
	})
}

// TestAServerThatDoesNotAnswerIsLost: it takes the request, and then does nothing more.
func TestAServerThatDoesNotAnswerIsLost(t *testing.T) {
	t.Parallel()
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := roundTripper(func(r *http.Request) (*http.Response, error) {
					select {
					case <-r.Context().Done():
						return nil, context.Cause(r.Context())
					case <-time.After(time.Hour):
						return nil, errors.New("nobody has given up")
					}
				}).client()
				var fault error
				begun, lost := time.Now(), errors.New("lost")
				options := megaphone.ReadOptions{Transport: transport, OnError: func(err error, _ time.Duration) error {
					fault = err
					return lost
				}}
				for _, err := range c.Read(t.Context(), "c.x", options) {
					if !errors.Is(err, lost) {
						t.Error(err)
					}
				}
				want := time.Minute
				if transport == megaphone.Poll {
					want += 20 * time.Second
				}
				if took := time.Since(begun); took != want {
					t.Errorf("%v after %v", fault, took)
				}
			})
		})
	}
}

// TestASilentReadOfLinesBeginsAgain: lines have no heartbeat, so silence is no fault, but the server may be gone.
func TestASilentReadOfLinesBeginsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		c := roundTripper(func(r *http.Request) (*http.Response, error) {
			body, server := io.Pipe()
			context.AfterFunc(r.Context(), func() { _ = server.CloseWithError(r.Context().Err()) })
			if reads++; reads == 2 {
				go fmt.Fprintln(server, `{"sid":"s","eid":"1","ts":"2026-01-02T03:04:05.000000000Z","body":1}`)
			}
			header := http.Header{"Content-Type": {"application/x-ndjson"}}
			return &http.Response{StatusCode: http.StatusOK, Header: header, Body: body}, nil
		}).client()
		options := megaphone.ReadOptions{OnError: func(err error, _ time.Duration) error { return err }}
		for event, err := range c.Read(t.Context(), "c.x", options) {
			if err != nil || event.ID != "1" || reads != 2 {
				t.Errorf("%+v, %v, after %d reads", event, err, reads)
			}
			break
		}
	})
}

// TestASuccessThatIsNotMegaphonesIsNotReadToItsEnd: it may be endless, such as a stream of another service.
func TestASuccessThatIsNotMegaphonesIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	c := stub(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	for _, err := range c.Read(t.Context(), "c.x", megaphone.ReadOptions{}) {
		if _, ok := errors.AsType[*megaphone.ReplyError](err); !ok {
			t.Errorf("a read: %v", err)
		}
	}
	if err := c.Write(t.Context(), megaphone.Message{Channel: "p.x", StreamID: "s"}); err == nil {
		t.Error("a write has succeeded")
	}
}

// TestAURLThatCannotWorkEndsARead: no other try would help.
func TestAURLThatCannotWorkEndsARead(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "127.0.0.1:1", "ftp://127.0.0.1"} {
		c := &megaphone.Client{URL: url}
		var last error
		options := megaphone.ReadOptions{OnError: func(err error, _ time.Duration) error { return fmt.Errorf("tried again: %w", err) }}
		for _, err := range c.Read(t.Context(), "c.x", options) {
			last = err
		}
		if want := "the URL of the client is not a valid URL of a site, such as http://127.0.0.1:3000"; last == nil || last.Error() != want {
			t.Errorf("%q: %v", url, last)
		}
	}
}

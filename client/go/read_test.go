package megaphone_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// newServer starts a server with a site that serves every endpoint, and returns a client of it.
func newServer(t *testing.T, settings string) (*testserver.Server, *megaphone.Client) {
	t.Helper()
	s := testserver.New(t)
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	s.Start(settings, url+" {\nbind 127.0.0.1\nmegaphone create write read exists manage topics publish\n}")
	return s, &megaphone.Client{URL: url}
}

func create(t *testing.T, c *megaphone.Client) megaphone.Channel {
	t.Helper()
	created, err := c.Create(t.Context(), megaphone.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func write(t *testing.T, c *megaphone.Client, channel megaphone.Channel, bodies ...any) {
	t.Helper()
	for _, body := range bodies {
		if err := c.Write(t.Context(), megaphone.Message{Channel: channel.ProducerAddress, StreamID: "s", Body: body}); err != nil {
			t.Fatal(err)
		}
	}
}

var transports = map[string]megaphone.Transport{
	"NDJSON": megaphone.NDJSON, "SSE": megaphone.SSE, "WebSocket": megaphone.WebSocket, "poll": megaphone.Poll,
}

// TestEachTransportBringsEachEventOnce: reads end and begin again while a producer writes, and the loop itself begins again.
func TestEachTransportBringsEachEventOnce(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "megaphone {\nread_duration 300ms\nstream_duration 300ms\n}")
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const messages = 150
			channel := create(t, c)
			go func() {
				for i := range messages {
					m := megaphone.Message{Channel: channel.ProducerAddress, StreamID: "s", Body: i}
					if err := c.Write(t.Context(), m); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
			options := megaphone.ReadOptions{Transport: transport, OnError: func(err error, _ time.Duration) error { return err }}
			for next := 0; next < messages; {
				for event, err := range c.Read(t.Context(), channel.ConsumerAddress, options) {
					if err != nil {
						t.Fatal(err)
					}
					if string(event.Body) != strconv.Itoa(next) || event.Gap || event.StreamID != "s" || time.Since(event.Time) > time.Minute {
						t.Fatalf("message %d is %+v", next, event)
					}
					if next++; next%60 == 0 || next == messages {
						break
					}
				}
			}
			// Read told the server that the loop has them all.
			if state, err := c.State(t.Context(), channel.ConsumerAddress); err != nil || state.Pending+state.InFlight != 0 {
				t.Errorf("the channel still holds messages: %+v %v", state, err)
			}
		})
	}
}

// TestAnEventIsSettledOnlyOnceItIsProcessed: what the body of the loop was busy with comes again if the process dies.
func TestAnEventIsSettledOnlyOnceItIsProcessed(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "")
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			channel := create(t, c)
			write(t, c, channel, 0, 1, 2)
			options := megaphone.ReadOptions{Transport: transport}
			func() {
				defer func() { _ = recover() }()
				for event, err := range c.Read(t.Context(), channel.ConsumerAddress, options) {
					if err == nil && string(event.Body) == "1" {
						panic("the process dies")
					}
				}
			}()
			for event, err := range c.Read(t.Context(), channel.ConsumerAddress, options) {
				if err != nil {
					t.Fatal(err)
				}
				body, _ := strconv.Atoi(string(event.Body))
				if body == 2 {
					break
				}
				if body == 1 {
					t.Log("the event comes again")
					return
				}
			}
			t.Error("the event that was not processed did not come again")
		})
	}
}

func TestReadEndsWithItsChannel(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "")
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			channel := create(t, c)
			write(t, c, channel, 0)
			var last error
			for _, err := range c.Read(t.Context(), channel.ConsumerAddress, megaphone.ReadOptions{Transport: transport}) {
				if last = err; err == nil {
					if err := c.Delete(t.Context(), channel.ProducerAddress); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !errors.Is(last, megaphone.ErrNotFound) {
				t.Errorf("the read ended with %v", last)
			}
		})
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "")
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			channel := create(t, c)
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			options := megaphone.ReadOptions{Transport: transport, OnOpen: func() { cancel(cause) }}
			if transport == megaphone.Poll {
				time.AfterFunc(100*time.Millisecond, func() { cancel(cause) }) // a poll opens once it has something
			}
			var last error
			for _, err := range c.Read(ctx, channel.ConsumerAddress, options) {
				last = err
			}
			if !errors.Is(last, cause) {
				t.Errorf("the read ended with %v", last)
			}
		})
	}
}

func TestAWebSocketTellsThatAnotherHasTakenOver(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "")
	channel := create(t, c)
	var last error
	options := megaphone.ReadOptions{Transport: megaphone.WebSocket, OnOpen: func() {
		go func() {
			for range c.Read(t.Context(), channel.ConsumerAddress, megaphone.ReadOptions{}) {
				return
			}
		}()
	}}
	for _, err := range c.Read(t.Context(), channel.ConsumerAddress, options) {
		last = err
	}
	if !errors.Is(last, megaphone.ErrTakenOver) {
		t.Errorf("the read ended with %v", last)
	}
	write(t, c, channel, 0) // ends the other read
}

// stub starts a server that answers as a test wants.
func stub(t *testing.T, serve http.HandlerFunc) *megaphone.Client {
	t.Helper()
	s := httptest.NewServer(serve)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return &megaphone.Client{URL: s.URL}
}

// TestWhatIsNoStreamIsAnErrorAtOnce: another server may answer anything with status 200.
func TestWhatIsNoStreamIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]http.HandlerFunc{
		"a page":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<!doctype html>") },
		"nothing":     func(http.ResponseWriter, *http.Request) {},
		"no site":     http.NotFound,
		"no password": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
	} {
		c := stub(t, serve)
		for kind, transport := range transports {
			var last error
			for _, err := range c.Read(t.Context(), "c.x", megaphone.ReadOptions{Transport: transport}) {
				last = err
			}
			if reply, ok := errors.AsType[*megaphone.ReplyError](last); !ok || reply.Endpoint != "read" {
				t.Errorf("%s, %s: %v", name, kind, last)
			}
		}
	}
	c := stub(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprintln(w, `{"hello":"world"}`)
	})
	var last error
	for _, err := range c.Read(t.Context(), "c.x", megaphone.ReadOptions{}) {
		last = err
	}
	if last == nil || last.Error() != `this is not a message of Megaphone: {"hello":"world"}` {
		t.Error(last)
	}
}

// TestReadConnectsAgain: after a fault, with a new token, from where it was, and it says if something may be missing.
func TestReadConnectsAgain(t *testing.T) {
	t.Parallel()
	var reads, tokens atomic.Int32
	c := stub(t, func(w http.ResponseWriter, r *http.Request) {
		if want := "Bearer " + strconv.Itoa(int(tokens.Load())); r.Header.Get("Authorization") != want || r.URL.Query().Get("site") != "1" {
			t.Errorf("request %s with %q, want %q", r.URL, r.Header.Get("Authorization"), want)
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		line := func(i int) {
			fmt.Fprintf(w, `{"sid":"s","eid":"id%d","ts":"2026-01-02T03:04:05.000000000Z","body":%d}`+"\n", i, i)
		}
		switch reads.Add(1) {
		case 1:
			line(1)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"code":"STARTING","message":"soon"}`)
		case 3:
			if r.URL.Query().Get("after") != "id1" {
				t.Errorf("the third read has the cursor %q", r.URL.Query().Get("after"))
			}
			w.Header().Set("Megaphone-Resume", "gap")
			line(1) // a repeat
			line(7)
		}
	})
	c.URL += "?site=1"
	c.Header = func(context.Context) (http.Header, error) {
		return http.Header{"Authorization": {"Bearer " + strconv.Itoa(int(tokens.Add(1)))}}, nil
	}
	var got []string
	var faults int
	options := megaphone.ReadOptions{OnError: func(error, time.Duration) error { faults++; return nil }}
	for event, err := range c.Read(t.Context(), "c.x", options) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, fmt.Sprint(event.ID, event.Gap)); event.ID == "id7" {
			break
		}
	}
	if fmt.Sprint(got) != "[id1false id7true]" || faults != 2 {
		t.Errorf("events %v, %d faults", got, faults)
	}
}

func TestAStreamWithoutHeartbeatsIsLost(t *testing.T) {
	t.Parallel()
	c := stub(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 4 {
			fmt.Fprint(w, ": heartbeat\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(50 * time.Millisecond)
		}
		<-r.Context().Done()
	})
	lost := errors.New("lost")
	var fault, last error
	options := megaphone.ReadOptions{
		Transport: megaphone.SSE, IdleTimeout: 120 * time.Millisecond,
		OnError: func(err error, _ time.Duration) error { fault = err; return lost },
	}
	begun := time.Now()
	for _, err := range c.Read(t.Context(), "c.x", options) {
		last = err
	}
	if !errors.Is(last, lost) || fault == nil || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("%v %v after %v", last, fault, time.Since(begun))
	}
}

// TestWrites: every way to write, and what fails.
func TestWrites(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "megaphone {\nbuffer 5\nhold 0s\n}")
	a, b := create(t, c), create(t, c)
	for range 2 {
		m := megaphone.Message{Channel: a.ProducerAddress, StreamID: "ä/b", Body: map[string]string{"html": "<b>&"}, Key: "k1"}
		if err := c.Write(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	failures, err := c.WriteBatch(t.Context(), []string{a.ProducerAddress, "main.nobody"}, []megaphone.Message{{StreamID: "s", Body: nil}})
	if err != nil || fmt.Sprint(failures) != "[{main.nobody  0 NOT_FOUND}]" {
		t.Errorf("%v %v", failures, err)
	}
	ingest := c.Ingest(t.Context())
	for i := range 6 {
		if err := ingest.Write(megaphone.Message{Channel: b.ProducerAddress, StreamID: "s", Body: i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ingest.WriteLines([]byte("no JSON\n")); err != nil {
		t.Fatal(err)
	}
	result, err := ingest.Close()
	if err != nil || result.Written != 5 || result.FailuresTotal != 2 || result.Failures[0].Index != 5 || result.Failures[1].Reason != "BAD_REQUEST" {
		t.Errorf("%+v %v", result, err)
	}
	err = c.Write(t.Context(), megaphone.Message{Channel: b.ProducerAddress, StreamID: "s", Body: 6})
	if refused, ok := errors.AsType[*megaphone.Error](err); !ok || refused.Code != "TIMEOUT" || errors.Is(err, megaphone.ErrUncertain) {
		t.Errorf("a full channel: %v", err)
	}
	if err := c.Write(t.Context(), megaphone.Message{Channel: "main.nobody", StreamID: "s"}); !errors.Is(err, megaphone.ErrNotFound) {
		t.Errorf("no channel: %v", err)
	}
	exist, err := c.Exist(t.Context(), []string{a.ConsumerAddress, "main.nobody"})
	if err != nil || !exist[a.ConsumerAddress] || exist["main.nobody"] {
		t.Errorf("%v %v", exist, err)
	}
	for event := range c.Read(t.Context(), a.ConsumerAddress, megaphone.ReadOptions{}) {
		var whole struct{ Body json.RawMessage }
		if err := json.Unmarshal(event.JSON, &whole); err != nil || event.StreamID != "ä/b" || string(event.Body) != `{"html":"<b>&"}` || string(whole.Body) != string(event.Body) {
			t.Errorf("%v %s", err, event.JSON)
		}
		break
	}
}

func TestAnOutcomeMayBeUncertain(t *testing.T) {
	t.Parallel()
	lost := stub(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	m := megaphone.Message{Channel: "p.x", StreamID: "s"}
	if err := lost.Write(t.Context(), m); !errors.Is(err, megaphone.ErrUncertain) {
		t.Errorf("the connection broke: %v", err)
	}
	ingest := lost.Ingest(t.Context())
	_ = ingest.Write(m)
	if result, err := ingest.Close(); !errors.Is(err, megaphone.ErrUncertain) || result.Written != 0 {
		t.Errorf("the connection broke: %+v %v", result, err)
	}
	nobody := &megaphone.Client{URL: fmt.Sprintf("http://user:hunter2@127.0.0.1:%d", testserver.FreePort(t))}
	err := nobody.Write(t.Context(), m)
	if err == nil || errors.Is(err, megaphone.ErrUncertain) || err.Error() == "" {
		t.Errorf("nobody listens: %v", err)
	}
	for _, url := range []string{"", "127.0.0.1:1", "ftp://user:hunter2@127.0.0.1", "http://user:hunter2@127.0.0.1:x"} {
		if err := (&megaphone.Client{URL: url}).Write(t.Context(), m); err == nil {
			t.Errorf("the URL %s is accepted", url)
		}
	}
}

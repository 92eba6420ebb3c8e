package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// An ingestStub stands in for a site. It cuts off a request that sends nothing for a minute.
type ingestStub struct {
	mu       sync.Mutex
	requests []string      // their bodies
	delay    time.Duration // before each reply
	reply    func(n int, body string) (status int, reply string)
}

func (s *ingestStub) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{})
	var body bytes.Buffer
	for buffer := make([]byte, 1<<20); ; {
		begun := time.Now()
		n, err := r.Body.Read(buffer)
		body.Write(buffer[:n])
		if time.Since(begun) >= time.Minute {
			return nil, errors.New("cut off")
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	select {
	case <-time.After(s.delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, body.String())
	status, reply := s.reply(len(s.requests), body.String())
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {httpjson.JSONType}}, Request: r,
		Body: io.NopCloser(strings.NewReader(reply)),
	}, nil
}

// acceptAll is the reply of a site that accepts all lines except those that say "bad".
func acceptAll(_ int, body string) (int, string) {
	written, failures := 0, []string{}
	for i, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		if line == "bad" {
			failures = append(failures, fmt.Sprintf(`{"channel":"c.x","index":%d,"reason":"BAD_REQUEST"}`, i))
			continue
		}
		written++
	}
	return http.StatusCreated, fmt.Sprintf(`{"written":%d,"failures":[%s],"failuresTotal":%d}`, written, strings.Join(failures, ","), len(failures))
}

// sendTo sends what write writes as the lines of an input.
func sendTo(ctx context.Context, stub *ingestStub, write func(w io.Writer)) (result sendResult, err error) {
	target := &megaphone.Client{URL: "http://site", HTTP: &http.Client{Transport: stub}}
	input, writer := io.Pipe()
	var written sync.WaitGroup
	written.Go(func() {
		write(writer)
		_ = writer.Close()
	})
	batches := readBatches(input, func(line []byte) []byte { return append(line, '\n') })
	s := &lineSender{site: target, batches: batches, result: &result, passed: new(atomic.Int64)}
	err = s.send(ctx)
	_ = input.Close()
	for range batches { // ends the goroutine of readBatches; in a command, the end of the process does
	}
	written.Wait()
	return result, err
}

func TestSendOutlivesPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := &ingestStub{reply: acceptAll}
		result, err := sendTo(t.Context(), stub, func(w io.Writer) {
			time.Sleep(time.Hour)
			fmt.Fprint(w, "1\nbad\n3\n")
			for range 10 {
				time.Sleep(15 * time.Second)
				fmt.Fprint(w, "4\n")
			}
			time.Sleep(time.Hour)
			fmt.Fprint(w, "5\nb")
			time.Sleep(time.Hour) // a pause in the middle of a line does not split it
			fmt.Fprint(w, "ad\n7")
			time.Sleep(25 * time.Second)
		})
		if err != nil || result.Written != 14 || result.FailuresTotal != 2 {
			t.Errorf("%v %+v", err, result)
		}
		if len(result.Failures) == 2 && (result.Failures[0].Index != 1 || result.Failures[1].Index != 14) {
			t.Errorf("failures %+v", result.Failures)
		}
		if want := []string{"1\nbad\n3\n" + strings.Repeat("4\n", 10), "5\n", "bad\n", "7\n"}; strings.Join(stub.requests, "|") != strings.Join(want, "|") {
			t.Errorf("requests %q, want %q", stub.requests, want)
		}
	})
}

func TestSendPutsAFileIntoOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := &ingestStub{reply: acceptAll}
		lines := strings.Repeat("a line of some length\n", 100_000)
		begun := time.Now()
		result, err := sendTo(t.Context(), stub, func(w io.Writer) { fmt.Fprint(w, lines) })
		if err != nil || result.Written != 100_000 || len(stub.requests) != 1 || stub.requests[0] != lines || time.Since(begun) != 0 {
			t.Errorf("%v %+v, %d requests, after %v", err, result, len(stub.requests), time.Since(begun))
		}
	})
}

func TestSendStopsAtAFailedRequest(t *testing.T) {
	for name, test := range map[string]struct {
		reply   string
		status  int
		unknown int
		written int
	}{
		"refused with a result":    {`{"code":"TIMEOUT","message":"m","written":1,"failures":[],"failuresTotal":0}`, 503, 0, 2},
		"refused without a result": {`{"code":"NOT_FOUND","message":"m"}`, 404, 0, 1},
		"a fault of the server":    {`{"code":"INTERNAL_SERVER_ERROR","message":"m"}`, 500, 2, 1},
		"a fault of a proxy":       {`bad gateway`, 502, 2, 1},
		"refused by a proxy":       {`forbidden`, 403, 0, 1},
		"no reply of Megaphone":    {`hello`, 201, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stub := &ingestStub{reply: func(n int, body string) (int, string) {
					if n == 1 {
						return acceptAll(n, body)
					}
					return test.status, test.reply
				}}
				result, err := sendTo(t.Context(), stub, func(w io.Writer) {
					fmt.Fprint(w, "1\n")
					time.Sleep(time.Minute)
					fmt.Fprint(w, "2\n3\n")
					time.Sleep(time.Minute)
					fmt.Fprint(w, "4\n")
				})
				if err == nil || len(stub.requests) != 2 || result.Written != test.written || result.Unknown != test.unknown {
					t.Errorf("%v, %d requests, %+v", err, len(stub.requests), result)
				}
			})
		})
	}
}

func TestInterruptedSendHasAGracePeriod(t *testing.T) {
	for _, slow := range []time.Duration{0, interruptGrace / 2, interruptGrace + time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			stub := &ingestStub{delay: slow, reply: acceptAll}
			time.AfterFunc(time.Second, func() { cancel(errInterrupted) })
			result, err := sendTo(ctx, stub, func(w io.Writer) {
				fmt.Fprint(w, "1\n2\n")
				time.Sleep(time.Hour)
			})
			written, unknown := 2, 0
			if slow > interruptGrace {
				written, unknown = 0, 2
			}
			if !errors.Is(err, errInterrupted) || result.Written != written || result.Unknown != unknown {
				t.Errorf("%v %+v", err, result)
			}
		})
	}
}

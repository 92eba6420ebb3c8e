package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// TestReloadUnderFullLoad checks that producers and consumers do not notice reloads. Every request gets its answer.
// Every message arrives in order, and once after dropping repeats. The listener wrapper takes care of the requests.
func TestReloadUnderFullLoad(t *testing.T) {
	reloadUnderFullLoad(t, "servers {\nlistener_wrappers {\nmegaphone\n}\n}", func(c *client) sender { return c.do })
}

// TestReloadUnderFullLoadWithoutTheListenerWrapper does the same without the listener wrapper. If net/http reads a
// request after its server has begun to shut down, it closes the connection without an answer. Linux closes connections
// that nobody has accepted yet. The client repeats such requests if that is safe: reads, and writes with a key. HTTP
// allows that (RFC 9110, 9.2.2). Everything else holds as with the wrapper.
func TestReloadUnderFullLoadWithoutTheListenerWrapper(t *testing.T) {
	reloadUnderFullLoad(t, "", func(c *client) sender { return c.insist })
}

// A sender sends a request, as client.do does.
type sender func(ctx context.Context, method, path string, header http.Header, body string) (*http.Response, error)

func reloadUnderFullLoad(t *testing.T, options string, send func(*client) sender) {
	const channels = 100
	reloads := workload.Rounds(10, 20)
	s := testserver.New(t)
	port := testserver.FreePort(t)
	site := tcpSite(port, "megaphone")
	settings := func(i int) string { // differs each time, because Caddy ignores a reload without a change
		return fmt.Sprintf("%s\nmegaphone {\nread_duration 500ms\nbuffer %d\n}", options, 100+i%2)
	}
	s.Start(settings(0), site)
	keeps := loadClient(t, port, false)
	opens := loadClient(t, port, true)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stop atomic.Bool
	var done sync.WaitGroup
	var messages atomic.Int64
	for i := range channels {
		// Half of the producers open a connection for each request. The other half keep theirs. Consumers do the same.
		producer, consumer := keeps, opens
		if i%2 == 0 {
			producer = opens
		}
		if i%4 < 2 {
			consumer = keeps
		}
		c := opens.create()
		written := make(chan int, 1)
		done.Go(func() {
			n, err := produce(ctx, send(producer), c, options == "" || i%8 < 4, &stop)
			if err != nil {
				t.Errorf("message %d of channel %d: %v", n, i, err)
			}
			written <- n
		})
		done.Go(func() {
			n, err := consume(ctx, send(consumer), c, written)
			if err != nil {
				t.Errorf("consumer %d, after %d messages: %v", i, n, err)
			}
			messages.Add(int64(n))
		})
	}
	for i := range reloads {
		time.Sleep(20 * time.Millisecond)
		if err := s.Reload(settings(i+1), site); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	defer time.AfterFunc(2*patience, cancel).Stop() // a busy machine may take longer for the reloads, each of which has its own limit
	done.Wait()
	t.Logf("%d messages, %d repeated requests", messages.Load(), keeps.again.Load()+opens.again.Load())
	if messages.Load() < int64(channels*reloads) {
		t.Errorf("only %d messages have arrived", messages.Load())
	}
}

// loadClient returns a client for many connections at once. If closes is set, each request has its own connection.
func loadClient(t *testing.T, port int, closes bool) *client {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{}).DialContext,
		DisableKeepAlives:   closes,
		MaxIdleConnsPerHost: 1000,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{tb: t, http: &http.Client{Transport: transport}, base: fmt.Sprintf("http://127.0.0.1:%d", port)}
}

// insist sends a request. If the connection closes before there is an answer, it repeats the request for about a
// second.
func (c *client) insist(ctx context.Context, method, path string, header http.Header, body string) (*http.Response, error) {
	for tries := 1; ; tries++ {
		response, err := c.do(ctx, method, path, header, body)
		if err == nil || tries == 50 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			return response, err
		}
		c.again.Add(1)
		time.Sleep(time.Duration(tries) * time.Millisecond)
	}
}

// produce writes one message after the other until stop is set. If keys is set, each has a key, so that repeating it is
// safe. produce returns how many messages it has written.
func produce(ctx context.Context, send sender, to channel, keys bool, stop *atomic.Bool) (n int, err error) {
	for ; !stop.Load(); n++ {
		header := http.Header{"Content-Type": {"application/json"}}
		if keys {
			header.Set("Idempotency-Key", fmt.Sprintf("%s-%d", to.ProducerAddress[:10], n))
		}
		response, err := send(ctx, http.MethodPost, "/write/"+to.ProducerAddress+"/s", header, fmt.Sprint(n))
		if err != nil {
			return n, err
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusCreated {
			return n, fmt.Errorf("%s %s %w", response.Status, text, err)
		}
		// Without the pause, the reloads wait for the processors, and few requests come in the middle of one.
		time.Sleep(2 * time.Millisecond)
	}
	return n, nil
}

// consume reads again and again until it has all written messages. It returns how many it has.
func consume(ctx context.Context, send sender, from channel, written <-chan int) (int, error) {
	consumer := newConsumer()
	total := -1
	for total < 0 || consumer.next < total {
		response, err := send(ctx, http.MethodGet, "/read/"+from.ConsumerAddress, nil, "")
		if err != nil {
			return consumer.next, err
		}
		if response.StatusCode != http.StatusOK {
			response.Body.Close()
			return consumer.next, errors.New(response.Status)
		}
		err = consumer.readToEnd(bufio.NewReader(response.Body))
		response.Body.Close()
		if err != nil {
			return consumer.next, err
		}
		select {
		case total = <-written:
		default:
		}
	}
	if consumer.next != total {
		return consumer.next, fmt.Errorf("the producer wrote only %d messages", total)
	}
	return consumer.next, nil
}

// TestExitInTheMiddleOfAReload sends SIGTERM before, during and after a reload: the time between the two differs from
// try to try. Each time, the reads end and the process exits. The read stays in its handler, because there is an access
// log.
func TestExitInTheMiddleOfAReload(t *testing.T) {
	t.Parallel()
	const directives = "log {\noutput discard\n}\nmegaphone"
	for after := time.Duration(0); after <= 5*time.Millisecond; after += 500 * time.Microsecond {
		s := testserver.New(t)
		c := startSite(t, s, "megaphone", directives)
		from := c.create()
		c.write(from, "0")
		ended, err := openStream(t.Context(), c, from, "text/event-stream")
		if err != nil {
			t.Fatal(err)
		}
		reloaded := make(chan error, 1)
		go func() { reloaded <- s.Reload("megaphone {\nbuffer 7\n}", unixSite(s, directives)) }()
		time.Sleep(after)
		s.Signal(syscall.SIGTERM)
		select {
		case <-s.Done():
		case <-time.After(patience):
			t.Fatalf("the process does not exit after a SIGTERM %v after the start of a reload", after)
		}
		if err := ended(); err != nil {
			t.Errorf("the read: %v", err)
		}
		<-reloaded // it may have failed
	}
}

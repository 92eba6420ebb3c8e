package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

const streams = 1000

func TestAThousandStreamsOverAFewConnections(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]func(*testing.T, *network) func(i int) *http.Client{
		"HTTP/2": func(t *testing.T, n *network) func(int) *http.Client {
			transport := &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: n.Roots(), MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
				MaxConnsPerHost: 8,
			}
			t.Cleanup(transport.CloseIdleConnections)
			c := &http.Client{Transport: transport}
			return func(int) *http.Client { return c }
		},
		"HTTP/3": func(t *testing.T, n *network) func(int) *http.Client {
			clients := make([]*http.Client, 16) // each has one connection, with at most 100 streams
			for i := range clients {
				transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: n.Roots(), MinVersion: tls.VersionTLS13}}
				t.Cleanup(func() { transport.Close() })
				clients[i] = &http.Client{Transport: transport}
			}
			return func(i int) *http.Client { return clients[i%len(clients)] }
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, "")
			clientFor := client(t, n)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var producers []string
			var all sync.WaitGroup
			got := make(chan error, streams)
			limit := make(chan struct{}, 50) // limits how many handshakes run at once
			for i := range streams {
				ch := n.create(t)
				producers = append(producers, ch.ProducerAddress)
				limit <- struct{}{}
				response := make(chan *http.Response, 1)
				all.Go(func() {
					defer func() { <-limit }()
					r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.https+"/read/"+ch.ConsumerAddress, nil)
					if err != nil {
						got <- err
						return
					}
					r.Header.Set("Accept", "text/event-stream")
					opened, err := clientFor(i).Do(r)
					if err != nil {
						got <- err
						return
					}
					response <- opened
				})
				go func() { got <- hasEvent(ctx, response, name) }()
			}
			all.Wait()
			defer time.AfterFunc(2*patience, cancel).Stop() // from now on: how long it takes to open them is the machine's affair
			text, err := json.Marshal(map[string]any{
				"channels": producers, "messages": []any{map[string]any{"streamId": "s", "body": "to all"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if status, reply := n.post(t, "/write-batch", "application/json", string(text)); status != 201 || string(reply) != `{"failures":[]}` {
				t.Fatalf("write-batch: %d %.200s", status, reply)
			}
			for range streams {
				if err := <-got; err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// hasEvent waits for a message on a stream of server-sent events.
func hasEvent(ctx context.Context, opened <-chan *http.Response, proto string) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case response := <-opened:
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Proto, proto) {
			return fmt.Errorf("%s %s", response.Proto, response.Status)
		}
		stop := context.AfterFunc(ctx, func() { response.Body.Close() })
		defer stop()
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			if bytes.HasPrefix(lines.Bytes(), []byte("data: ")) {
				return nil
			}
		}
		return io.ErrUnexpectedEOF
	}
}

// TestExtendedConnectIsRefused asks for WebSockets over HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220). The refusal says which
// HTTP version has them.
func TestExtendedConnectIsRefused(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "", "GODEBUG=http2xconnect=1")
	ch := n.create(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, n.https+"/read/"+ch.ConsumerAddress, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: n.Roots(), MinVersion: tls.VersionTLS13}
	refused := func(name string, response *http.Response, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusMethodNotAllowed || !bytes.Contains(body, []byte("WebSockets are served over HTTP/1.1")) {
			t.Errorf("%s: %s %q %v", name, response.Status, body, err)
		}
	}

	two := &http2.Transport{TLSClientConfig: config}
	defer two.CloseIdleConnections()
	extended := r.Clone(ctx)
	extended.Header.Set(":protocol", "websocket")
	response, err := two.RoundTrip(extended)
	refused("HTTP/2", response, err)

	three := &http3.Transport{TLSClientConfig: config}
	defer three.Close()
	extended = r.Clone(ctx)
	extended.Proto = "websocket"
	response, err = three.RoundTrip(extended)
	refused("HTTP/3", response, err)
}

// TestASlowClientThatTakesSomethingIsNotCutOff has a client that reads a little all the time. The server does not cut
// it off, however long the kernel waits until it lets the server send more.
func TestASlowClientThatTakesSomethingIsNotCutOff(t *testing.T) {
	t.Parallel()
	for name, log := range map[string]string{"alone": "", "with its handler": "log {\noutput discard\n}\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const lasts, pause, rate = 7 * time.Second, 50 * time.Millisecond, 200 << 10 // bytes a second, however busy the machine is
			s, c, address := startTCP(t, "megaphone {\nwrite_timeout 3s\n}", log+"megaphone")
			from := c.create()
			for range 80 {
				c.write(from, `"`+strings.Repeat("x", 100<<10)+`"`)
			}
			read := openReadOver(t, address, from, false, 64<<10)
			taken := int64(0)
			for began := time.Now(); time.Since(began) < lasts; time.Sleep(pause) {
				if err := read.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				n, err := io.CopyN(io.Discard, read.lines, int64(time.Since(began).Seconds()*rate)-taken)
				if err != nil {
					t.Fatalf("cut off after %v: %v", time.Since(began), err)
				}
				taken += n
			}
			if got := sumOfMetric(s, "caddy_megaphone_readers"); got != 1 {
				t.Errorf("%d readers are left", got)
			}
		})
	}
}

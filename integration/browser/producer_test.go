//go:build browser

package browser

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// A producer makes channels and writes to them, beside the page of a test.
type producer struct {
	t   *testing.T
	url string
}

// post sends a request, and returns the channel that it makes, if it does.
func (p producer) post(path, body string) (c channel) {
	p.t.Helper()
	return p.send(http.DefaultClient, http.MethodPost, path, body)
}

// send is like post, with any client and method.
func (p producer) send(client *http.Client, method, path, body string) (c channel) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		p.t.Fatalf("%s: %s", path, response.Status)
	}
	_ = json.NewDecoder(response.Body).Decode(&c) // not every reply is a channel
	return c
}

func (p producer) make(n int) (channels []channel) {
	p.t.Helper()
	for range n {
		channels = append(channels, p.post("/create", ""))
	}
	return channels
}

func (p producer) write(c channel, n int) {
	p.t.Helper()
	for range n {
		p.post("/write/"+c.ProducerAddress+"/s", `{"text":"hello"}`)
	}
}

// background sends a request that goes on until the test ends.
func (p producer) background(method, path string) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader("1"))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	done := make(chan struct{})
	go func() {
		defer close(done)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return
		}
		defer response.Body.Close()
		<-ctx.Done()
	}()
	p.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// holdWrite writes to a full channel.
func (p producer) holdWrite(c channel) {
	p.background(http.MethodPost, "/write/"+c.ProducerAddress+"/s")
}

// read reads a channel, and takes nothing.
func (p producer) read(c channel) { p.background(http.MethodGet, "/read/"+c.ConsumerAddress) }

package testserver

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Client is a program that reads a channel. It prints each number that it reads on a line of its own.
type Client struct {
	tb      testing.TB
	process *os.Process
	began   chan struct{}
	done    chan struct{}
	lines   []string // complete once done is closed
	err     error
}

// StartClient starts a program. Give its command a context with a time limit: the program would wait for ever for a message that
// is lost.
func StartClient(tb testing.TB, cmd *exec.Cmd) *Client {
	tb.Helper()
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatalf("%s: %v", filepath.Base(cmd.Path), err)
	}
	c := &Client{tb: tb, process: cmd.Process, began: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		began := sync.OnceFunc(func() { close(c.began) })
		defer began()
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			c.lines = append(c.lines, scanner.Text())
			began()
		}
		c.err = cmd.Wait()
	}()
	tb.Cleanup(func() {
		_ = c.process.Kill() // or it has ended
		<-c.done
	})
	return c
}

// AwaitFirst waits until the client has printed a line or has ended.
func (c *Client) AwaitFirst() { <-c.began }

// Ended says whether the client has ended.
func (c *Client) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Err waits until the client has ended, and says how.
func (c *Client) Err() error {
	<-c.done
	return c.err
}

// WantNumbers waits until the client has ended. It must have printed the numbers below count, each once and in order.
func (c *Client) WantNumbers(count int) {
	c.tb.Helper()
	if err := c.Err(); err != nil {
		c.tb.Errorf("the client failed: %v", err)
	}
	for n, line := range c.lines {
		if line != strconv.Itoa(n) {
			c.tb.Errorf("line %d is %q; the lines are\n%s", n, line, strings.Join(c.lines, " "))
			return
		}
	}
	if len(c.lines) != count {
		c.tb.Errorf("%d of %d messages have arrived", len(c.lines), count)
	}
}

// Feed writes the numbers below count to a URL, each on a connection of its own. It writes the last one when a channel is closed. As
// any producer does, it repeats what a server refuses because it is shutting down. If a write fails, Feed ends the client.
func (c *Client) Feed(ctx context.Context, url string, count int, last <-chan struct{}) {
	c.tb.Helper()
	producer := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for n := range count {
		if n == count-1 {
			select {
			case <-last:
			case <-c.done:
			}
		}
		status, reply := http.StatusServiceUnavailable, ""
		var err error
		for err == nil && status == http.StatusServiceUnavailable && !c.Ended() {
			time.Sleep(10 * time.Millisecond)
			status, reply, err = write(ctx, producer, url, strconv.Itoa(n))
		}
		if c.Ended() {
			return // too early; WantNumbers says so
		}
		if err != nil || status != http.StatusCreated {
			c.tb.Errorf("write of number %d: %d %s %v", n, status, reply, err)
			_ = c.process.Kill()
			return
		}
	}
}

func write(ctx context.Context, client *http.Client, url, body string) (status int, reply string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

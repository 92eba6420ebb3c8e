package megaphone_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A rawClient is one connection on which the test writes HTTP/1.1 by hand.
type rawClient struct {
	*server
	net.Conn

	replies *bufio.Reader
}

func (s *server) rawClient() *rawClient {
	s.Helper()
	conn, err := new(net.Dialer).DialContext(s.ctx, "unix", s.socket)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.Fatal(err)
	}
	return &rawClient{s, conn, bufio.NewReader(conn)}
}

// in returns the same client for a subtest.
func (c *rawClient) in(t *testing.T) *rawClient {
	return &rawClient{c.server.in(t), c.Conn, c.replies}
}

func (c *rawClient) send(text string) {
	c.Helper()
	if _, err := io.WriteString(c.Conn, text); err != nil {
		c.Fatal(err)
	}
}

// wants waits for a reply with this status. It reports whether the reply says that the connection ends.
func (c *rawClient) wants(status int) (last bool) {
	c.Helper()
	response, err := http.ReadResponse(c.replies, nil)
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != status {
		c.Fatalf("got %s %q, %v, want %d", response.Status, body, err, status)
	}
	return response.Close
}

// wantsEnd waits until the server closes the connection.
func (c *rawClient) wantsEnd() {
	c.Helper()
	if rest, err := io.ReadAll(c.replies); err != nil && !errors.Is(err, net.ErrClosed) || len(rest) > 0 {
		c.Fatalf("got %q, %v, want the end of the connection", rest, err)
	}
}

const createRequest = "POST /create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"

// readRequest returns a request that reads a channel.
func readRequest(c channel) string {
	return "GET " + c.readPath() + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
}

// writeRequest returns a request that writes a message. lines are more lines for its header.
func writeRequest(producerAddress, body string, lines ...string) string {
	var more strings.Builder
	for _, line := range lines {
		more.WriteString(line + "\r\n")
	}
	return fmt.Sprintf("POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		producerAddress, more.String(), len(body), body)
}

// writeAll writes messages, one after the other. The channel must accept them.
func (c *rawClient) writeAll(to channel, bodies ...string) {
	c.Helper()
	for _, body := range bodies {
		c.send(writeRequest(to.ProducerAddress, body))
		c.wants(http.StatusCreated)
	}
}

// numbered returns the numbers from begin up to, but not including, end.
func numbered(begin, end int) (bodies []string) {
	for i := begin; i < end; i++ {
		bodies = append(bodies, strconv.Itoa(i))
	}
	return bodies
}

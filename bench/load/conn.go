// Package load is a client for benchmarks. It uses raw connections and prepared requests, so that it costs less than
// the servers it measures. It understands only as much HTTP as those servers need, and it trusts them.
package load

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"
)

// timeout is how long a load waits for anything from a server.
const timeout = 20 * time.Second

// A Request has the bytes of an HTTP/1.1 request.
type Request []byte

// Get returns a GET request. Each header is a whole line without its line end.
func Get(path string, headers ...string) Request { return request("GET", path, "", headers) }

// Post returns a POST request with a body. Each header is a whole line without its line end.
func Post(path, body string, headers ...string) Request {
	return request("POST", path, body, append(headers, "Content-Length: "+strconv.Itoa(len(body))))
}

func request(method, path, body string, headers []string) Request {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	for _, header := range headers {
		b.WriteString(header + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.Bytes()
}

// A Conn is a keep-alive connection that makes one request after the other.
type Conn struct {
	net.Conn
	buffer []byte
	read   int // how many bytes at the start of the buffer were received and belong to no reply yet
}

func dial(address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// Dial connects to a server.
func Dial(address string) (*Conn, error) {
	conn, err := dial(address)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, buffer: make([]byte, 4<<10)}, nil
}

// Do makes a request and reads the reply. The reply's body is valid until the next call.
func (c *Conn) Do(r Request) (status int, body []byte, err error) {
	if _, err := c.Write(r); err != nil {
		return 0, nil, err
	}
	return c.Reply()
}

// Reply reads the reply to the oldest request that has no reply yet. The reply must have a Content-Length.
func (c *Conn) Reply() (status int, body []byte, err error) {
	head, err := c.head()
	if err != nil {
		return 0, nil, err
	}
	status, length, err := parseHead(c.buffer[:head])
	if err != nil {
		return 0, nil, err
	}
	for c.read < head+length {
		if err := c.more(); err != nil {
			return 0, nil, err
		}
	}
	body = bytes.Clone(c.buffer[head : head+length])
	c.read = copy(c.buffer, c.buffer[head+length:c.read])
	return status, body, nil
}

var headEnd = []byte("\r\n\r\n")

// head reads the header of a reply and returns the header's length.
func (c *Conn) head() (int, error) {
	for {
		if i := bytes.Index(c.buffer[:c.read], headEnd); i >= 0 {
			return i + len(headEnd), nil
		}
		if err := c.more(); err != nil {
			return 0, err
		}
	}
}

func (c *Conn) more() error {
	if c.read == len(c.buffer) {
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
	}
	n, err := c.Read(c.buffer[c.read:])
	c.read += n
	if n > 0 {
		return nil
	}
	return err
}

var contentLength = []byte("\r\nContent-Length: ")

func parseHead(head []byte) (status, length int, err error) {
	if len(head) < 12 {
		return 0, 0, fmt.Errorf("not a reply: %q", head)
	}
	if status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return 0, 0, fmt.Errorf("not a reply: %q", head)
	}
	_, rest, ok := bytes.Cut(head, contentLength)
	if !ok {
		return 0, 0, fmt.Errorf("the reply has no Content-Length: %q", head)
	}
	text, _, _ := bytes.Cut(rest, []byte("\r"))
	length, err = strconv.Atoi(string(text))
	return status, length, err
}

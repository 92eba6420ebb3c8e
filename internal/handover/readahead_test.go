package handover

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// net/http reads ahead. What it has read of the next request is lost with it, so the connection must be closed, as it
// is without a Listener: otherwise the successor would take the rest for a request.
func TestPipelinedRequestIsNotTornApart(t *testing.T) {
	for _, test := range []struct{ name, send, then string }{
		{"at once", post("slow", "1234") + post("b", "GET /c HTTP/1.1\nHost: x\n\n"), ""},
		{
			"in two pieces", post("slow", "1234") + "POST /b HTTP/1.1\nHost: x\nContent-Length: 26\n\n",
			"GET /c HTTP/1.1\nHost: x\n\n",
		},
		{
			"after a chunked body",
			"POST /slow HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n4\n1234\n0\n\n" + get("b"), "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.send(test.send)
				synctest.Wait()
				successor := a.replace(t, old)
				close(old.ends)
				c.expect("old: /slow 1234")
				if test.then != "" {
					_, _ = io.WriteString(c.conn, strings.ReplaceAll(test.then, "\n", "\r\n"))
				}
				c.expectClosed()
				successor.expectServed()
				successor.stop()
			})
		})
	}
}

// The server has read the second request together with the first, and waits until it knows whether it will serve the
// second. The successor must not get both.
func TestPipelinedRequestIsNotPassedOnWithTheOneBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		c.send(get("slow") + get("b"))
		synctest.Wait()
		successor := a.serve(t, "new")
		close(old.ends)
		c.expect("old: /slow ")
		synctest.Wait()
		old.stop()
		c.expectClosed()
		old.expectServed("/slow")
		successor.expectServed()
	})
}

// Whatever pieces a request came in, the Conn knows that the server's buffer is empty after it.
func TestConnectionIsPassedOnForAnyPiecesOfItsRequest(t *testing.T) {
	request := strings.ReplaceAll(post("a", "1234"), "\n", "\r\n")
	for i := 1; i < len(request); i++ {
		inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
			for _, piece := range []string{request[:i], request[i:]} {
				if _, err := io.WriteString(c.conn, piece); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			c.expect("old: /a 1234")
			successor := a.replace(t, old)
			c.exchange(get("b"), "new: /b ")
			successor.stop()
		})
	}
}

// Some clients send an empty line after a body. net/http skips it (RFC 9112, 2.2).
func TestEmptyLineBetweenRequestsIsSkipped(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		c.send(post("slow", "1234"))
		synctest.Wait()
		go c.send("\n")
		synctest.Wait() // the server has read the first half of the line end
		successor := a.replace(t, old)
		close(old.ends)
		c.expect("old: /slow 1234")
		c.exchange(get("b"), "new: /b ")
		successor.stop()
	})
}

// If too much of a request arrives while a connection is passed on, it is closed: the successor must not get only the
// rest.
func TestTooLargeRequestIsNotPassedOnInPart(t *testing.T) {
	near, far := net.Pipe()
	c := &Conn{Prefixed: prefixed(far, nil), clean: true, passed: true, read: make([]byte, maxUnserved)}
	if _, err := c.endRead(make([]byte, 1), nil); err == nil {
		t.Error("the server can go on reading")
	}
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestPartlyReadRequestIsNotTornApart(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		c.exchange(post("a", "1234")+"GE", "old: /a 1234")
		successor := a.replace(t, old)
		c.expectClosedAtOnce()
		successor.expectServed()
	})
}

// While net/http serves a request, it reads one byte of the next, to notice when the client goes.
func TestRequestSentDuringAnotherGoesToSuccessor(t *testing.T) {
	for name, first := range map[string]string{"without a body": get("slow"), "with a body": post("slow", "1234")} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.send(first)
				synctest.Wait()
				go c.send(post("b", "5678"))
				synctest.Wait()
				successor := a.replace(t, old)
				close(old.ends)
				c.expectPrefix("old: /slow")
				c.expect("new: /b 5678")
				successor.expectServed("/b")
				successor.stop()
			})
		})
	}
}

package handover

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// net/http reads ahead, and what it has read of the next request is lost with it. Such a connection is closed, as
// without a Listener: what follows must not be taken for a request.
func TestARequestThatCameTooEarlyIsNotTornApart(t *testing.T) {
	for _, test := range []struct{ name, send, then string }{
		{"all at once", post("slow", "1234") + post("b", "GET /c HTTP/1.1\nHost: x\n\n"), ""},
		{"in two pieces", post("slow", "1234") + "POST /b HTTP/1.1\nHost: x\nContent-Length: 26\n\n", "GET /c HTTP/1.1\nHost: x\n\n"},
		{"after a chunked body", "POST /slow HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n4\n1234\n0\n\n" + fmt.Sprintf(get, "b"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p place
				old := p.serve(t, "old")
				c := p.dial(t)
				c.send(test.send)
				synctest.Wait()
				heir := p.serve(t, "new")
				old.stop()
				close(old.ends)
				c.expect("old: /slow 1234")
				if test.then != "" {
					_, _ = io.WriteString(c.conn, strings.ReplaceAll(test.then, "\n", "\r\n"))
				}
				c.expect("unexpected EOF")
				heir.expectServed()
				heir.stop()
			})
		})
	}
}

// The server has read the second request with the first one, and waits to know whether it is to serve it.
func TestARequestThatCameTooEarlyIsNotServedByTheHeirWithTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		c.send(fmt.Sprintf(get, "slow") + fmt.Sprintf(get, "b"))
		synctest.Wait()
		heir := p.serve(t, "new")
		close(old.ends)
		c.expect("old: /slow ")
		synctest.Wait()
		old.stop()
		c.expect("unexpected EOF")
		old.expectServed("/slow")
		heir.expectServed()
	})
}

// However the first request came in, the server's buffer is known to be empty after it.
func TestAConnectionGoesToTheHeirInWhateverPiecesItsRequestCame(t *testing.T) {
	request := strings.ReplaceAll(post("a", "1234"), "\n", "\r\n")
	for i := 1; i < len(request); i++ {
		synctest.Test(t, func(t *testing.T) {
			var p place
			old := p.serve(t, "old")
			c := p.dial(t)
			for _, piece := range []string{request[:i], request[i:]} {
				if _, err := io.WriteString(c.conn, piece); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			c.expect("old: /a 1234")
			heir := p.serve(t, "new")
			old.stop()
			c.send(fmt.Sprintf(get, "b"))
			c.expect("new: /b ")
			heir.stop()
		})
	}
}

// Some clients send an empty line after a body, which net/http passes over (RFC 9112, 2.2).
func TestAnEmptyLineBetweenRequestsIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		c.send(post("slow", "1234"))
		synctest.Wait()
		go c.send("\n")
		synctest.Wait() // the first half of it was read
		heir := p.serve(t, "new")
		old.stop()
		close(old.ends)
		c.expect("old: /slow 1234")
		c.send(fmt.Sprintf(get, "b"))
		c.expect("new: /b ")
		heir.stop()
	})
}

// A connection that is passed on while too much of a request comes in is closed: the heir must not get the rest.
func TestTooMuchOfARequestIsNotPassedOnInPart(t *testing.T) {
	ours, theirs := net.Pipe()
	c := &Conn{Prefixed: prefixed(theirs, nil), clean: true, passed: true, read: make([]byte, maxUnserved)}
	if _, err := c.endRead(make([]byte, 1), nil); err == nil {
		t.Error("the server may go on")
	}
	if _, err := ours.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is not closed")
	}
}

func TestARequestOfWhichTheServerHasReadTheBeginAlreadyIsNotTornApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		c.send(post("a", "1234") + "GE")
		c.expect("old: /a 1234")
		heir := p.serve(t, "new")
		old.stop()
		began := time.Now()
		c.expect("unexpected EOF")
		if time.Since(began) > 0 {
			t.Error("the connection was kept")
		}
		heir.expectServed()
	})
}

// One byte of it net/http reads while it serves, to notice when the client is gone.
func TestARequestThatCameWhileAnotherWasServedGoesToTheHeir(t *testing.T) {
	for _, first := range []string{fmt.Sprintf(get, "slow"), post("slow", "1234")} {
		synctest.Test(t, func(t *testing.T) {
			var p place
			old := p.serve(t, "old")
			c := p.dial(t)
			c.send(first)
			synctest.Wait()
			go c.send(post("b", "5678"))
			synctest.Wait()
			heir := p.serve(t, "new")
			old.stop()
			close(old.ends)
			if got := c.answer(); !strings.HasPrefix(got, "old: /slow") {
				t.Errorf("the client got %q", got)
			}
			c.expect("new: /b 5678")
			heir.expectServed("/b")
			heir.stop()
		})
	}
}

package handover

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitingConnectionGoesToSuccessor(t *testing.T) {
	for _, test := range []struct {
		name           string
		before, answer string // a request that the old server answers
		then           string // is sent before the successor starts
		next           string // is sent after the old server has stopped
		want           string
	}{
		{name: "new", next: post("b", "1234"), want: "new: /b 1234"},
		{name: "after a request", before: get("a"), answer: "old: /a ", next: post("b", "1234"), want: "new: /b 1234"},
		{
			name: "after a request with a body", before: post("a", "1234"), answer: "old: /a 1234",
			next: post("b", "1234"), want: "new: /b 1234",
		},
		{
			name:   "after a request with a long header",
			before: "GET /a HTTP/1.1\nHost: x\nCookie: " + strings.Repeat("c", 9000) + "\n\n", answer: "old: /a ",
			next: post("b", "1234"), want: "new: /b 1234",
		},
		{name: "with the beginning of a request", then: "GE", next: "T /b HTTP/1.1\nHost: x\n\n", want: "new: /b "},
		{
			name: "with the beginning of a request with a body", before: post("a", "1"), answer: "old: /a 1",
			then: "POST /b HTTP/1.1\nHost: x\nContent-Length: 4\n", next: "\n1234", want: "new: /b 1234",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				if test.before != "" {
					c.exchange(test.before, test.answer)
				}
				c.send(test.then)
				synctest.Wait()
				successor := a.serve(t, "new")
				time.Sleep(10 * time.Second) // Shutdown leaves new connections alone
				old.stop()
				time.Sleep(10 * time.Second)
				c.exchange(test.next, test.want)
				successor.expectServed("/b")
				c.exchange(get("c"), "new: /c ")
				successor.stop()
				c.expectClosed()
			})
		})
	}
}

// When net/http has read a request and the shutdown began in the meantime, it closes the connection without an answer.
func TestRequestReadTooLateGoesToSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		c.send("POST /a HTTP/1.1\nHost: x\nContent-")
		synctest.Wait()
		successor := a.replace(t, old) // leaves the connection open, since it is new
		c.exchange("Length: 4\n\n1234", "new: /a 1234")
		old.expectServed()
		successor.expectServed("/a")
		successor.stop()
	})
}

// net/http also does so if the shutdown begins after it has called ConnState for the request and before it calls the
// handler.
func TestRequestReadAtShutdownGoesToSuccessor(t *testing.T) {
	for name, request := range map[string]string{"without a body": get("b"), "with a body": post("b", "1234")} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.exchange(get("a"), "old: /a ")
				old.resumes = make(chan struct{})
				c.send(request)
				synctest.Wait()
				successor := a.replace(t, old)
				close(old.resumes)
				c.expectPrefix("new: /b")
				old.expectServed("/a")
				successor.expectServed("/b")
				successor.stop()
			})
		})
	}
}

// net/http itself answers a request that it cannot read.
func TestUnreadableRequestIsNotPassedOn(t *testing.T) {
	inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
		old.resumes = make(chan struct{})
		c.send("GET /a without a version\n\n")
		synctest.Wait()
		successor := a.serve(t, "new")
		close(old.resumes)
		c.expect("400 Bad Request")
		old.stop()
		synctest.Wait()
		successor.expectServed()
		if successor.accepted > 0 {
			t.Error("the connection was passed on")
		}
		successor.stop()
	})
}

// Between the start of a successor and the shutdown of the old server, requests wait until one of the two will serve them.
func TestRequestWaitsForTheDecision(t *testing.T) {
	for _, test := range []struct {
		becomes, answer string
		takes           time.Duration
	}{
		{"successor", "new: /b ", time.Millisecond},
		{"failed", "old: /b ", time.Millisecond},
		{"slow", "old: /b ", maxUndecided},
	} {
		t.Run(test.becomes, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.exchange(get("a"), "old: /a ")
				successor := a.serve(t, "new")
				began := time.Now()
				c.send(get("b"))
				time.Sleep(time.Millisecond)
				switch test.becomes {
				case "successor":
					old.stop()
				case "failed":
					successor.stop()
				}
				c.expect(test.answer)
				if waited := time.Since(began); waited > test.takes {
					t.Errorf("the answer took %s, want at most %s", waited, test.takes)
				}
				old.stop()
				successor.stop()
			})
		})
	}
}

func TestServedRequestIsNotServedAgain(t *testing.T) {
	for _, test := range []struct {
		name, send, answer string
		aborted            bool
	}{
		{"a request", get("slow"), "old: /slow ", false},
		{"a request with a body", post("slow", "1234"), "old: /slow 1234", false},
		{"an aborted request", get("abort"), "unexpected EOF", true},
		{"an aborted request with a body", post("abort", "1234"), "unexpected EOF", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.send(test.send)
				synctest.Wait()
				successor := a.replace(t, old)
				close(old.ends)
				c.expect(test.answer)
				synctest.Wait()
				successor.expectServed()
				if !test.aborted {
					c.exchange(get("b"), "new: /b ") // the response did not say that the connection ends
				}
				successor.stop()
			})
		})
	}
}

func TestConnectionsOfAFailedConfigurationGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a address
		old := a.serve(t, "old")
		failed := a.serve(t, "failed")
		c := a.dial(t)
		c.exchange(get("a"), "failed: /a ")
		failed.stop()
		c.exchange(get("b"), "old: /b ")
		old.stop()
	})
}

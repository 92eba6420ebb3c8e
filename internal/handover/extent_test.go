package handover

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// chunked returns a request with a body in chunks, a chunk extension and a trailer.
func chunked(path string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nTrailer: A\n\n2\n12\n0A;x=\"1\"\n3456789abc\n0;y\nA: b\n\n", path)
}

// TestConnectionIsPassedOnAfterAnyRequest: the response did not say that the connection ends, so the client may already have
// sent its next request. If the connection closed, that would be reset.
func TestConnectionIsPassedOnAfterAnyRequest(t *testing.T) {
	const cookie = "Host: x\nCookie: "
	withCookie := func(request string, n int) string {
		return strings.Replace(request, "Host: x", cookie+strings.Repeat("c", n), 1)
	}
	requests := map[string]string{
		"in chunks":                         chunked("slow"),
		"with a length":                     post("slow", "123456789abc"),
		"with a long header":                withCookie(post("slow", "123456789abc"), 6000),
		"in chunks with a long header":      withCookie(chunked("slow"), 6000),
		"in chunks and as long as a buffer": withCookie(chunked("slow"), 4096-len(strings.ReplaceAll(chunked("slow"), "\n", "\r\n"))-len("\r\nCookie: ")),
		"in chunks, oddly written":          strings.Replace(chunked("slow"), "chunked", "CHUNKED", 1),
		"with a large body":                 post("slow", strings.Repeat("1", 10000)),
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
				c.send(request)
				synctest.Wait()
				successor := a.replace(t, old)
				close(old.ends)
				c.expectPrefix("old: /slow 1")
				c.exchange(get("b"), "new: /b ")
				successor.stop()
			})
		})
	}
}

func TestConnectionIsPassedOnForAnyPiecesOfAChunkedRequest(t *testing.T) {
	request := strings.ReplaceAll(chunked("slow"), "\n", "\r\n")
	for i := 1; i < len(request); i++ {
		inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
			for _, piece := range []string{request[:i], request[i:]} {
				if _, err := io.WriteString(c.conn, piece); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			successor := a.replace(t, old)
			close(old.ends)
			c.expect("old: /slow 123456789abc")
			c.exchange(get("b"), "new: /b ")
			successor.stop()
		})
	}
}

// What net/http has read of the next request is lost with it, wherever the request before that ended.
func TestRequestBehindAChunkedOneIsNotTornApart(t *testing.T) {
	request := strings.ReplaceAll(chunked("slow")+chunked("b"), "\n", "\r\n")
	for i := strings.Index(request, "\r\n\r\n") + 4; i < len(request)/2; i++ {
		inBubble(t, func(t *testing.T, a *address, old *server, c *client) {
			for _, piece := range []string{request[:i], request[i:]} {
				if _, err := io.WriteString(c.conn, piece); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			successor := a.replace(t, old)
			close(old.ends)
			c.expect("old: /slow 123456789abc")
			c.expectClosed()
			successor.expectServed()
			successor.stop()
		})
	}
}

// FuzzExtent compares where an extent ends with where net/http ends.
func FuzzExtent(f *testing.F) {
	for _, request := range []string{chunked("a"), chunked("a") + get("b"), post("a", "1234"), post("a", "1") + chunked("b"), "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n00\n\n"} {
		text := strings.ReplaceAll(request, "\n", "\r\n")
		f.Add(text, uint(len(text)/2))
	}
	f.Fuzz(func(t *testing.T, text string, cut uint) {
		source := strings.NewReader(text)
		from := bufio.NewReader(source)
		r, err := http.ReadRequest(from)
		if err != nil {
			t.Skip(err)
		}
		header := len(text) - source.Len() - from.Buffered()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Skip(err)
		}
		left := source.Len() + from.Buffered()
		cutAt := header + int(cut%uint(len(text)-header+1))
		e := extentOf([]byte(text[:cutAt]))
		if e == nil {
			t.Skip("no extent")
		}
		e.add([]byte(text[cutAt:]))
		if got := e.isAll(len(text)); got != (left == 0) {
			t.Errorf("the request is all: %v, but net/http leaves %d bytes", got, left)
		}
	})
}

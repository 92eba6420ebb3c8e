package megaphone_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// isDirect reports whether a connection is served directly.
func (s *server) isDirect() bool { return s.metrics()["caddy_megaphone_direct_connections{}"] > 0 }

// runs reports whether a function runs.
func (s *server) runs(function string) bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte(function))
}

// writeRequest is a request that writes a message, with some more lines in its header.
func writeRequest(address, body string, lines ...string) string {
	var more strings.Builder
	for _, line := range lines {
		more.WriteString(line + "\r\n")
	}
	return fmt.Sprintf("POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		address, more.String(), len(body), body)
}

// writes sends messages, one after the other, which must be accepted.
func (c *rawClient) writes(to channel, bodies ...string) {
	c.Helper()
	for _, body := range bodies {
		c.send(writeRequest(to.ProducerAddress, body))
		c.wants(http.StatusCreated)
	}
}

// numbered returns the numbers from begin to below end.
func numbered(begin, end int) (bodies []string) {
	for i := begin; i < end; i++ {
		bodies = append(bodies, strconv.Itoa(i))
	}
	return bodies
}

// enough is how many writes make that the following ones are served directly.
const enough = 8

// direct returns a client whose writes to a channel are served directly.
func (s *server) direct(to channel) *rawClient {
	s.Helper()
	c := s.rawClient()
	c.writes(to, numbered(0, enough)...)
	s.eventually(s.isDirect)
	return c
}

func TestWritesAreServedDirectlyWhereNothingCouldTell(t *testing.T) {
	for _, test := range []struct {
		name, settings, site string
		direct               bool
	}{
		{name: "alone", site: "megaphone", direct: true},
		{name: "for pages of other origins too", site: "megaphone {\ncors_origins *\n}", direct: true},
		{name: "before others", site: "megaphone\nfile_server", direct: true},
		{name: "after a handler of the same kind", site: "route {\nmegaphone read create\nmegaphone write\n}", direct: true},
		{name: "with an access log", site: "log {\noutput discard\n}\nmegaphone"},
		{name: "with metrics", settings: "metrics", site: "megaphone"},
		{name: "with a trace", settings: "servers {\ntrace\n}", site: "megaphone"},
		{name: "with a limit to a request", settings: "servers {\ntimeouts {\nread_body 1m\n}\n}", site: "megaphone"},
		{name: "with a limit to a response", settings: "servers {\ntimeouts {\nwrite 1m\n}\n}", site: "megaphone"},
		{name: "with nothing but that", settings: "servers {\ntimeouts {\nwrite 1m\nwrite_idle -1s\n}\n}", site: "megaphone"},
		{name: "with a short limit to a header", settings: "servers {\ntimeouts {\nread_header 900ms\n}\n}", site: "megaphone"},
		{name: "with a short limit to a pause", settings: "servers {\ntimeouts {\nread_body_idle 900ms\n}\n}", site: "megaphone"},
		{name: "with a filter of headers", settings: "servers {\nexpected_underscore_headers x_*\n}", site: "megaphone"},
		{name: "with another one", settings: "servers {\nexpected_dot_headers x.*\n}", site: "megaphone"},
		{name: "with the listener wrapper", settings: "servers {\nlistener_wrappers {\nmegaphone\n}\n}", site: "megaphone", direct: true},
		{name: "with named routes", site: "invoke ours\n}\n&(ours) {\nmegaphone"},
		{name: "with another handler before", site: "header X-Frame-Options DENY\nmegaphone"},
		{name: "with authentication", site: "@stranger header X-Stranger *\nrespond @stranger 403\nmegaphone"},
		{name: "on a path", site: "@ours path /write/* /create /read/*\nmegaphone @ours"},
		{name: "beside another path", site: "handle /other {\nrespond 204\n}\nhandle {\nmegaphone\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, test.settings, test.site)
			c, client := s.create(), s.rawClient()
			client.writes(c, numbered(0, 3*enough)...)
			if test.direct {
				s.eventually(s.isDirect)
			} else if s.isDirect() {
				t.Error("writes are served directly")
			}
			s.read("/read/" + c.ConsumerAddress).wants(numbered(0, 3*enough)...)
		})
	}
}

// A request to another host is logged, but these are not.
func TestTheAccessLogOfAnotherHostDoesNotMatter(t *testing.T) {
	s := serve(t, "", "megaphone")
	if err := s.load("", "megaphone\n}\nhttp://other.example {\nbind unix/"+s.socket+"\nlog {\noutput discard\n}\nmegaphone"); err != nil {
		t.Fatal(err)
	}
	c := s.create()
	logged := s.rawClient()
	for range 2 * enough {
		logged.send(strings.ReplaceAll(writeRequest(c.ProducerAddress, "1"), "localhost", "other.example"))
		logged.wants(http.StatusCreated)
	}
	if s.isDirect() {
		t.Error("writes that are logged are served directly")
	}
	s.direct(c)
}

var dateLine = regexp.MustCompile(`\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n`)

func TestDirectRepliesAreThoseOfNetHTTP(t *testing.T) {
	s := serve(t, "", "megaphone {\ncors_origins *\n}")
	client, c := s.rawClient(), s.create()
	reply := func() string {
		client.send(writeRequest(c.ProducerAddress, "1", "Origin: https://example.com"))
		var text strings.Builder
		for !strings.HasSuffix(text.String(), `{"status":"OK"}`) {
			b, err := client.replies.ReadByte()
			if err != nil {
				t.Fatalf("%q: %v", text.String(), err)
			}
			text.WriteByte(b)
		}
		if !dateLine.MatchString(text.String()) {
			t.Errorf("%q has no date", text.String())
		}
		return dateLine.ReplaceAllString(text.String(), "\r\n")
	}
	want := reply()
	for i := range 2 * enough {
		if got := reply(); got != want {
			t.Errorf("reply %d is %q, want %q", i+2, got, want)
		}
	}
	s.eventually(s.isDirect)
}

// Each of these requests comes right after direct writes, and is followed by others.
func TestWhatIsNoDirectWriteIsServedByCaddy(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1000\nhold 0\nmax_message_size 100KB\n}", "megaphone")
	small := strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "Content-Length: 3\r\n", "")
	for name, test := range map[string]struct {
		request string
		status  int
		last    bool // the server closes the connection after it
	}{
		"another request":              {request: postCreate, status: http.StatusOK},
		"another header":               {request: writeRequest("ADDRESS", `"x"`, "X-Trace: 1"), status: http.StatusCreated},
		"another host":                 {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "localhost", "127.0.0.1"), status: http.StatusCreated},
		"another type":                 {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/json", "/xml"), status: http.StatusUnsupportedMediaType},
		"an escape in the stream id":   {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/str%65am "), status: http.StatusCreated},
		"no stream id":                 {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/ "), status: http.StatusBadRequest},
		"a path of more segments":      {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/a/b "), status: http.StatusOK},
		"an unknown channel":           {request: writeRequest("main.AAAAAAAAAAAAAAAAAAAAAA", "1"), status: http.StatusNotFound},
		"no JSON":                      {request: writeRequest("ADDRESS", `{"x"`), status: http.StatusBadRequest},
		"an empty body":                {request: writeRequest("ADDRESS", ""), status: http.StatusBadRequest},
		"a large body":                 {request: writeRequest("ADDRESS", `"`+strings.Repeat("x", 90_000)+`"`), status: http.StatusCreated},
		"a stream id that is too long": {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/"+strings.Repeat("s", 5000)+" "), status: http.StatusCreated},
		"a body that is too large":     {request: writeRequest("ADDRESS", `"`+strings.Repeat("x", 100_000)+`"`), status: http.StatusRequestEntityTooLarge, last: true},
		"a key that is too long":       {request: writeRequest("ADDRESS", `"x"`, "Idempotency-Key: "+strings.Repeat("k", 256)), status: http.StatusBadRequest},
		"a long header":                {request: writeRequest("ADDRESS", `"x"`, "X-Long: "+strings.Repeat("x", 8000)), status: http.StatusCreated},
		"chunks":                       {request: strings.Replace(small, `"x"`, "3\r\n\"x\"\r\n0\r\n\r\n", 1), status: http.StatusCreated},
		"the last one":                 {request: writeRequest("ADDRESS", `"x"`, "Connection: close"), status: http.StatusCreated, last: true},
		"another version":              {request: strings.Replace(writeRequest("ADDRESS", `"x"`), "1.1", "1.0", 1), status: http.StatusCreated, last: true},
		"no request":                   {request: "no request\r\n\r\n", status: http.StatusBadRequest, last: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			c := s.create()
			client := s.direct(c)
			request := strings.ReplaceAll(test.request, "ADDRESS", c.ProducerAddress)
			if name == "chunks" {
				request = strings.Replace(request, "Content-Type", "Transfer-Encoding: chunked\r\nContent-Type", 1)
			}
			client.send(request)
			if last := client.wants(test.status); last != test.last {
				t.Errorf("the connection ends: %v", last)
			}
			if test.last {
				client.wantsEnd()
				s.eventually(func() bool { return !s.isDirect() })
				return
			}
			client.writes(c, numbered(100, 100+2*enough)...)
			s.eventually(s.isDirect) // again
			client.Close()
			s.eventually(func() bool { return !s.isDirect() })

			r, bodies := s.read("/read/"+c.ConsumerAddress), numbered(0, enough)
			if test.status == http.StatusCreated {
				_, body, _ := strings.Cut(test.request, "\r\n\r\n")
				if name == "chunks" {
					body = `"x"`
				}
				bodies = append(bodies, body)
			}
			r.wants(append(bodies, numbered(100, 100+2*enough)...)...)
		})
	}
}

func TestAFullChannelHoldsAProducerThatWritesDirectly(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 10\nin_flight 10\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	client.writes(c, numbered(enough, 10)...)
	client.send(writeRequest(c.ProducerAddress, "10"))
	s.eventually(func() bool { return !s.isDirect() }) // net/http has it
	s.read("/read/" + c.ConsumerAddress).wants(numbered(0, 11)...)
	client.wants(http.StatusCreated)
}

func TestDirectWritesAreIdempotent(t *testing.T) {
	s := serve(t, "", "megaphone")
	c, client := s.create(), s.rawClient()
	for i := range 3 * enough {
		for range 2 {
			client.send(writeRequest(c.ProducerAddress, strconv.Itoa(i), "Idempotency-Key: "+strconv.Itoa(i)))
			client.wants(http.StatusCreated)
		}
	}
	s.eventually(s.isDirect)
	s.read("/read/" + c.ConsumerAddress).wants(numbered(0, 3*enough)...)
}

// A producer may send writes without waiting for replies, in pieces of any size.
func TestDirectWritesInOneGoAndInPieces(t *testing.T) {
	const messages = 300
	s := serve(t, "megaphone {\nbuffer 1000\n}", "megaphone")
	for name, size := range map[string]int{"all at once": 1 << 20, "in pieces of 1,000 bytes": 1000, "of 100": 100, "of 7": 7} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			c, client := s.create(), s.rawClient()
			var all strings.Builder
			for _, body := range numbered(0, messages) {
				all.WriteString(writeRequest(c.ProducerAddress, `"`+body+strings.Repeat("x", 50)+`"`))
			}
			go func() {
				for rest := all.String(); len(rest) > 0; {
					n := min(size, len(rest))
					if _, err := io.WriteString(client.Conn, rest[:n]); err != nil {
						return // the test has ended
					}
					rest = rest[n:]
				}
			}()
			for range messages {
				client.wants(http.StatusCreated)
			}
			r := s.read("/read/" + c.ConsumerAddress)
			for _, body := range numbered(0, messages) {
				r.wants(`"` + body + strings.Repeat("x", 50) + `"`)
			}
		})
	}
}

// Some clients send an empty line after a body (RFC 9112, 2.2).
func TestEmptyLinesBetweenDirectWrites(t *testing.T) {
	for name, settings := range map[string]string{"": "", "with the listener wrapper": "servers {\nlistener_wrappers {\nmegaphone\n}\n}"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, settings, "megaphone")
			c, client := s.create(), s.rawClient()
			for i := range 3 * enough {
				client.send(writeRequest(c.ProducerAddress, strconv.Itoa(i)) + "\r\n")
				client.wants(http.StatusCreated)
			}
			s.eventually(s.isDirect)
			client.send(postCreate)
			client.wants(http.StatusOK)
			client.send("\r\n")
			client.send(postCreate)
			client.wants(http.StatusOK)
			s.read("/read/" + c.ConsumerAddress).wants(numbered(0, 3*enough)...)
		})
	}
}

// A producer that does other things in between is left to net/http for longer each time.
func TestAProducerThatIsTakenOverInVainIsLeftAlone(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1000\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	for patience := 2 * enough; patience <= 4*enough; patience *= 2 {
		client.send(postCreate)
		client.wants(http.StatusOK)
		s.eventually(func() bool { return !s.isDirect() })
		client.writes(c, numbered(0, patience-1)...)
		if s.isDirect() {
			t.Errorf("it is taken over before %d writes", patience)
		}
		client.writes(c, `"last"`)
		s.eventually(s.isDirect)
	}
	client.writes(c, numbered(0, 4*enough)...) // which is as many as it waited for
	client.send(postCreate)
	client.wants(http.StatusOK)
	s.eventually(func() bool { return !s.isDirect() })
	client.writes(c, numbered(0, enough)...)
	s.eventually(s.isDirect)
}

func TestAClientThatTakesNoRepliesToDirectWrites(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nwrite_idle 300ms\n}\n}\nmegaphone {\nbuffer 1000000\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	began := time.Now()
	request := strings.Repeat(writeRequest(c.ProducerAddress, "1"), 100)
	for {
		if _, err := io.WriteString(client.Conn, request); err != nil {
			break
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it was cut off after %v", took)
	}
	s.eventually(func() bool { return !s.isDirect() })
}

func TestADirectWriteThatComesSlowlyIsLeftToNetHTTP(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	client := s.direct(c)
	request := writeRequest(c.ProducerAddress, `"slow"`)
	client.send(request[:20])
	s.eventually(func() bool { return !s.isDirect() }) // after a second
	client.send(request[20:])
	client.wants(http.StatusCreated)
	s.read("/read/" + c.ConsumerAddress).wants(append(numbered(0, enough), `"slow"`)...)
}

// What is said of half a request, after which the client sends nothing, it may still wait for.
func TestHalfADirectWriteIsAnsweredByCaddy(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	request := writeRequest(c.ProducerAddress, `"half"`)
	for name, length := range map[string]int{"half a header": 30, "half a body": len(request) - 1} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			client := s.direct(c)
			client.send(request[:length])
			if err := client.Conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			client.wants(http.StatusBadRequest)
			client.wantsEnd()
			s.eventually(func() bool { return !s.isDirect() })
		})
	}
}

// A connection that goes back with more than net/http reads at once can be taken over again.
func TestAProducerThatIsAheadIsTakenOverAgain(t *testing.T) {
	const ahead = 60
	s := serve(t, "megaphone {\nbuffer 1000\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	client.writes(c, `"`+strings.Repeat("x", 10_000)+`"`) // so that as much is read at once
	client.send(postCreate + strings.Repeat(writeRequest(c.ProducerAddress, "1"), ahead))
	client.wants(http.StatusOK)
	for range ahead {
		client.wants(http.StatusCreated)
	}
	client.writes(c, numbered(0, 4*enough)...)
	s.eventually(s.isDirect)
}

func TestAnIdleConnectionIsClosedThoughItWasTakenOver(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nidle 2s\n}\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	var last time.Time
	for range 3 { // which takes longer than it may be idle, but it is not
		time.Sleep(700 * time.Millisecond)
		last = time.Now()
		client.writes(c, "1")
	}
	client.wantsEnd()
	if took := time.Since(last); took < 2*time.Second || took > 5*time.Second {
		t.Errorf("it was closed after %v", took)
	}
}

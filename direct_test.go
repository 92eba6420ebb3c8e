package megaphone_test

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// isDirect reports whether any connection is served directly.
func (s *server) isDirect() bool { return s.directConnections() > 0 }

// directConnections returns how many connections are served directly.
func (s *server) directConnections() float64 {
	return s.metrics()["caddy_megaphone_direct_connections{}"]
}

// enough is how many writes in a row it takes until the following ones are served directly.
const enough = 8

// direct returns a client whose writes to a channel are served directly.
func (s *server) direct(to channel) *rawClient {
	s.Helper()
	c := s.rawClient()
	c.writeAll(to, numbered(0, enough)...)
	s.eventually(s.isDirect)
	return c
}

func TestWritesAreServedDirectlyOnlyWhereNobodyNotices(t *testing.T) {
	for _, test := range []struct {
		name, settings, site string
		direct               bool
	}{
		{name: "alone", site: "megaphone", direct: true},
		{name: "with CORS", site: "megaphone {\ncors_origins *\n}", direct: true},
		{name: "before another handler", site: "megaphone\nfile_server", direct: true},
		{name: "after a Megaphone handler that serves no writes", site: "route {\nmegaphone read create\nmegaphone write\n}", direct: true},
		{name: "turned off", site: "megaphone {\ndirect_writes off\n}"},
		{name: "turned on", site: "megaphone {\ndirect_writes on\ndetached_reads off\n}", direct: true},
		{name: "with an access log", site: "log {\noutput discard\n}\nmegaphone"},
		{name: "with metrics", settings: "metrics", site: "megaphone"},
		{name: "with a trace", settings: "servers {\ntrace\n}", site: "megaphone"},
		{name: "with a limit on requests", settings: "servers {\ntimeouts {\nread_body 1m\n}\n}", site: "megaphone"},
		{name: "with a limit on responses", settings: "servers {\ntimeouts {\nwrite 1m\n}\n}", site: "megaphone"},
		{name: "with a limit on responses only", settings: "servers {\ntimeouts {\nwrite 1m\nwrite_idle -1s\n}\n}", site: "megaphone"},
		{name: "with a short limit on headers", settings: "servers {\ntimeouts {\nread_header 900ms\n}\n}", site: "megaphone"},
		{name: "with a short limit on pauses in a body", settings: "servers {\ntimeouts {\nread_body_idle 900ms\n}\n}", site: "megaphone"},
		{name: "with a filter for headers with underscores", settings: "servers {\nexpected_underscore_headers x_*\n}", site: "megaphone"},
		{name: "with a filter for headers with dots", settings: "servers {\nexpected_dot_headers x.*\n}", site: "megaphone"},
		{name: "with the listener wrapper", settings: "servers {\nlistener_wrappers {\nmegaphone\n}\n}", site: "megaphone", direct: true},
		{name: "with named routes", site: "invoke ours\n}\n&(ours) {\nmegaphone"},
		{name: "after another handler", site: "header X-Frame-Options DENY\nmegaphone"},
		{name: "after a handler that refuses requests", site: "@stranger header X-Stranger *\nrespond @stranger 403\nmegaphone"},
		{name: "on a path", site: "@ours path /write/* /create /read/*\nmegaphone @ours"},
		{name: "beside a handler for another path", site: "handle /other {\nrespond 204\n}\nhandle {\nmegaphone\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, test.settings, test.site)
			c, client := s.create(), s.rawClient()
			client.writeAll(c, numbered(0, 3*enough)...)
			if test.direct {
				s.eventually(s.isDirect)
			} else if s.isDirect() {
				t.Error("writes are served directly, but should not be")
			}
			s.read(c).wants(numbered(0, 3*enough)...)
		})
	}
}

// TestTheAccessLogOfAnotherHostDoesNotMatter checks a server with two hosts. Only requests to one of them are logged. The
// others can be served directly.
func TestTheAccessLogOfAnotherHostDoesNotMatter(t *testing.T) {
	s := serve(t, "", "megaphone")
	s.reload("", "megaphone\n}\nhttp://other.example {\nbind unix/"+s.socket+"\nlog {\noutput discard\n}\nmegaphone")
	c := s.create()
	logged := s.rawClient()
	for range 2 * enough {
		logged.send(strings.ReplaceAll(writeRequest(c.ProducerAddress, "1"), "localhost", "other.example"))
		logged.wants(http.StatusCreated)
	}
	if s.isDirect() {
		t.Error("writes to the host with an access log are served directly")
	}
	s.direct(c)
}

var dateLine = regexp.MustCompile(`\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n`)

func TestDirectRepliesEqualThoseOfNetHTTP(t *testing.T) {
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

// TestCaddyServesRequestsThatAreNotDirectWrites checks requests that follow direct writes on the same connection. More
// writes follow each of them.
func TestCaddyServesRequestsThatAreNotDirectWrites(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1000\nhold 0\nmax_message_size 100KB\n}", "megaphone")
	small := strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "Content-Length: 3\r\n", "")
	for name, test := range map[string]struct {
		request string
		status  int
		last    bool // whether the server then closes the connection
	}{
		"another request":               {request: createRequest, status: http.StatusOK},
		"another header":                {request: writeRequest("ADDRESS", `"x"`, "X-Trace: 1"), status: http.StatusCreated},
		"another host":                  {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "localhost", "127.0.0.1"), status: http.StatusCreated},
		"another type":                  {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/json", "/xml"), status: http.StatusUnsupportedMediaType},
		"an escape in the stream id":    {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/str%65am "), status: http.StatusCreated},
		"no stream id":                  {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/ "), status: http.StatusBadRequest},
		"a path of more segments":       {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/a/b "), status: http.StatusNotFound},
		"a path that ends with /":       {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/a/ "), status: http.StatusNotFound},
		"a path of fewer segments":      {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", " "), status: http.StatusNotFound},
		"a path with // in it":          {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/write/", "/write//"), status: http.StatusNotFound},
		"a page of the site":            {request: strings.ReplaceAll(writeRequest("page", `"x"`), "/stream ", " "), status: http.StatusOK},
		"an unknown channel":            {request: writeRequest("main.AAAAAAAAAAAAAAAAAAAAAA", "1"), status: http.StatusNotFound},
		"malformed JSON":                {request: writeRequest("ADDRESS", `{"x"`), status: http.StatusBadRequest},
		"an empty body":                 {request: writeRequest("ADDRESS", ""), status: http.StatusBadRequest},
		"a large body":                  {request: writeRequest("ADDRESS", `"`+strings.Repeat("x", 90_000)+`"`), status: http.StatusCreated},
		"a stream id that is too long":  {request: strings.ReplaceAll(writeRequest("ADDRESS", `"x"`), "/stream ", "/"+strings.Repeat("s", 5000)+" "), status: http.StatusCreated},
		"a body that is too large":      {request: writeRequest("ADDRESS", `"`+strings.Repeat("x", 100_000)+`"`), status: http.StatusRequestEntityTooLarge},
		"a body that is much too large": {request: writeRequest("ADDRESS", `"`+strings.Repeat("x", 300_000)+`"`), status: http.StatusRequestEntityTooLarge, last: true},
		"a key that is too long":        {request: writeRequest("ADDRESS", `"x"`, "Idempotency-Key: "+strings.Repeat("k", 256)), status: http.StatusBadRequest},
		"a long header":                 {request: writeRequest("ADDRESS", `"x"`, "X-Long: "+strings.Repeat("x", 8000)), status: http.StatusCreated},
		"a chunked body":                {request: strings.Replace(small, `"x"`, "3\r\n\"x\"\r\n0\r\n\r\n", 1), status: http.StatusCreated},
		"the last request":              {request: writeRequest("ADDRESS", `"x"`, "Connection: close"), status: http.StatusCreated, last: true},
		"another version of HTTP":       {request: strings.Replace(writeRequest("ADDRESS", `"x"`), "1.1", "1.0", 1), status: http.StatusCreated, last: true},
		"garbage":                       {request: "no request\r\n\r\n", status: http.StatusBadRequest, last: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			c := s.create()
			client := s.direct(c)
			request := strings.ReplaceAll(test.request, "ADDRESS", c.ProducerAddress)
			if name == "a chunked body" {
				request = strings.Replace(request, "Content-Type", "Transfer-Encoding: chunked\r\nContent-Type", 1)
			}
			client.send(request)
			if last := client.wants(test.status); last != test.last {
				t.Errorf("the reply says that the connection ends: %v, want %v", last, test.last)
			}
			if test.last {
				client.wantsEnd()
				s.eventually(func() bool { return !s.isDirect() })
				return
			}
			client.writeAll(c, numbered(100, 100+2*enough)...)
			s.eventually(s.isDirect) // the connection was hijacked again
			client.Close()
			s.eventually(func() bool { return !s.isDirect() })

			r, bodies := s.read(c), numbered(0, enough)
			if test.status == http.StatusCreated {
				_, body, _ := strings.Cut(test.request, "\r\n\r\n")
				if name == "a chunked body" {
					body = `"x"`
				}
				bodies = append(bodies, body)
			}
			r.wants(append(bodies, numbered(100, 100+2*enough)...)...)
		})
	}
}

func TestAFullChannelHoldsADirectWrite(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 10\nin_flight 10\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	client.writeAll(c, numbered(enough, 10)...)
	client.send(writeRequest(c.ProducerAddress, "10"))
	s.awaitHeldWrite()
	request := writeRequest(c.ProducerAddress, "11")
	client.send(request[:len(request)-1])
	read := s.read(c)
	read.wants(numbered(0, 11)...)
	client.wants(http.StatusCreated)
	client.send(request[len(request)-1:])
	client.wants(http.StatusCreated)
	read.wants("11")
	if !s.isDirect() {
		t.Error("the connection has gone back to net/http")
	}
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
	s.read(c).wants(numbered(0, 3*enough)...)
}

// TestDirectWritesInPiecesOfAnySize checks a producer that sends writes without waiting for replies.
func TestDirectWritesInPiecesOfAnySize(t *testing.T) {
	const messages = 300
	s := serve(t, "megaphone {\nbuffer 1000\n}", "megaphone")
	for name, size := range map[string]int{"all at once": 1 << 20, "in pieces of 1,000 bytes": 1000, "in pieces of 100 bytes": 100, "in pieces of 7 bytes": 7} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
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
			r := s.read(c)
			for _, body := range numbered(0, messages) {
				r.wants(`"` + body + strings.Repeat("x", 50) + `"`)
			}
		})
	}
}

// TestEmptyLinesBetweenDirectWrites checks clients that send an empty line after a body (RFC 9112, 2.2).
func TestEmptyLinesBetweenDirectWrites(t *testing.T) {
	for name, settings := range map[string]string{"without the listener wrapper": "", "with the listener wrapper": "servers {\nlistener_wrappers {\nmegaphone\n}\n}"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, settings, "megaphone")
			c, client := s.create(), s.rawClient()
			for i := range 3 * enough {
				client.send(writeRequest(c.ProducerAddress, strconv.Itoa(i)) + "\r\n")
				client.wants(http.StatusCreated)
			}
			s.eventually(s.isDirect)
			client.send(createRequest)
			client.wants(http.StatusOK)
			client.send("\r\n")
			client.send(createRequest)
			client.wants(http.StatusOK)
			s.read(c).wants(numbered(0, 3*enough)...)
		})
	}
}

// TestAConnectionIsHijackedLaterAfterOtherRequests checks a producer that also sends other requests. Each time, it takes
// twice as many writes until its connection is hijacked.
func TestAConnectionIsHijackedLaterAfterOtherRequests(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1000\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	for writes := 2 * enough; writes <= 4*enough; writes *= 2 {
		client.send(createRequest)
		client.wants(http.StatusOK)
		s.eventually(func() bool { return !s.isDirect() })
		client.writeAll(c, numbered(0, writes-1)...)
		if s.isDirect() {
			t.Errorf("the connection is hijacked before %d writes", writes)
		}
		client.writeAll(c, `"last"`)
		s.eventually(s.isDirect)
	}
	client.writeAll(c, numbered(0, 4*enough)...) // as many as it took, so the number starts from enough again
	client.send(createRequest)
	client.wants(http.StatusOK)
	s.eventually(func() bool { return !s.isDirect() })
	client.writeAll(c, numbered(0, enough)...)
	s.eventually(s.isDirect)
}

func TestAClientThatTakesNoRepliesIsCutOff(t *testing.T) {
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
		t.Errorf("the client was cut off after %v, want less than 5s", took)
	}
	s.eventually(func() bool { return !s.isDirect() })
}

// TestCaddyAnswersHalfADirectWrite checks a client that ends its side of the connection in the middle of a request, and
// waits for the reply.
func TestCaddyAnswersHalfADirectWrite(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	request := writeRequest(c.ProducerAddress, `"half"`)
	for name, length := range map[string]int{"half a header": 30, "half a body": len(request) - 1} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
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

// TestAConnectionWithManyUnservedRequestsIsHijackedAgain checks a connection that goes back to net/http with more bytes
// than net/http reads at once.
func TestAConnectionWithManyUnservedRequestsIsHijackedAgain(t *testing.T) {
	const ahead = 60
	s := serve(t, "megaphone {\nbuffer 1000\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	client.writeAll(c, `"`+strings.Repeat("x", 10_000)+`"`) // so that the server reads as much at once
	client.send(createRequest + strings.Repeat(writeRequest(c.ProducerAddress, "1"), ahead))
	client.wants(http.StatusOK)
	for range ahead {
		client.wants(http.StatusCreated)
	}
	client.writeAll(c, numbered(0, 4*enough)...)
	s.eventually(s.isDirect)
}

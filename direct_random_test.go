package megaphone_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A script is a random sequence of requests for one connection. ADDRESS and READ stand for the addresses of a channel.
type script struct {
	*rand.Rand

	text strings.Builder
}

// newScript returns the script with a number.
func newScript(seed, number uint64) *script {
	return &script{Rand: rand.New(rand.NewPCG(seed, number))}
}

// chance reports true once in n times.
func (s *script) chance(n int) bool { return s.IntN(n) == 0 }

// pick returns one of the choices.
func pick[T any](s *script, choices ...T) T { return choices[s.IntN(len(choices))] }

// write writes all requests.
func (s *script) write() {
	for range 1 + s.IntN(20) {
		if s.chance(20) {
			s.text.WriteString(strings.Repeat(pick(s, "\r\n", "\n", "\r\n\r\n\r\n"), 1+s.IntN(3)))
		}
		switch {
		case s.chance(15):
			s.text.WriteString(s.otherRequest())
		default:
			s.text.WriteString(s.request(max(0, s.IntN(8)-5)))
		}
	}
}

// otherRequest returns a request to another endpoint.
func (s *script) otherRequest() string {
	post := func(path, contentType, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			path, contentType, len(body), body)
	}
	return pick(s,
		createRequest,
		"GET /read/READ?poll=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"HEAD /read/READ HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /channel/main.AAAAAAAAAAAAAAAAAAAAAA HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /somewhere/else HTTP/1.1\r\nHost: localhost\r\n\r\n",
		post("/write-batch", "application/json", `{"channels":["ADDRESS"],"messages":[{"streamId":"b","body":1},{"streamId":"c","body":"x"}]}`),
		post("/write", "application/x-ndjson", `{"channel":"ADDRESS","streamId":"i","body":[2]}`+"\nnonsense\n"),
		post("/channelsExists", "application/json", `{"channels":["ADDRESS"]}`),
	)
}

// A randomRequest is a write, which changes make odd.
type randomRequest struct {
	method, path, version string
	header                []string
	body                  string // as it is sent
	length                string // the value of Content-Length; none if empty
	lineEnd               string
}

// request returns a write with some changes. Without any, it is one that is served directly.
func (s *script) request(changes int) string {
	r := &randomRequest{
		method: "POST", path: "/write/ADDRESS/stream", version: "HTTP/1.1", lineEnd: "\r\n",
		header: []string{"Host: localhost", "Content-Type: application/json"},
		body:   pick(s, "1", `"text"`, `{"a": [1, 2]}`, `"`+strings.Repeat("x", s.IntN(2500))+`"`),
	}
	if s.chance(3) {
		r.header = append(r.header, fmt.Sprint("Idempotency-Key: ", s.IntN(5)))
	}
	if s.chance(6) {
		r.header = append(r.header, "Megaphone-Merge: "+pick(s, "replace", "append"))
	}
	if s.chance(12) {
		r.body = pick(s, "", "{", " 1 ", "\"\xff\"", `"\ud83d"`, "\x00", "1 2", `"`+strings.Repeat("y", 3000+s.IntN(4000))+`"`)
	}
	r.length = fmt.Sprint(len(r.body))
	for range changes {
		pick(s, s.changePath, s.changeLine, s.changeHost, s.changeLength, s.changeHeader, s.changeHeader, s.changeLayout, s.chunk)(r)
	}
	if r.length != "" {
		r.header = append(r.header, "Content-Length: "+r.length)
	}
	if s.chance(4) && changes > 0 {
		s.Shuffle(len(r.header), func(i, j int) { r.header[i], r.header[j] = r.header[j], r.header[i] })
	}
	head := strings.TrimSpace(r.method + " " + r.path + " " + r.version)
	return head + r.lineEnd + strings.Join(r.header, r.lineEnd) + r.lineEnd + r.lineEnd + r.body
}

func (s *script) changePath(r *randomRequest) {
	switch kind := s.IntN(4); {
	case kind == 0 && len(r.path) > 1:
		at := 1 + s.IntN(len(r.path)-1)
		r.path = fmt.Sprintf("%s%%%0*x%s", r.path[:at], pick(s, 2, 2, 2, 1), r.path[at], r.path[at+1:])
	case kind == 1:
		r.path += pick(s, "/", "/more", "%2Fmore", "%2fmore", "?", "?a=b", "#f", "%", "%zz", "%00", "\x01", "ä", ";v=1", "~-._")
	case kind == 2:
		r.path = pick(s, "http://localhost", "HTTP://localhost:80", "https://other.example", "//localhost", "/.", "/x/..", "/") + r.path
	default:
		r.path = pick(s, "/write/ADDRESS", "/write/ADDRESS/", "/write//stream", "/write/READ/stream", "/WRITE/ADDRESS/stream", "*", "",
			"/write/main.AAAAAAAAAAAAAAAAAAAAAA/stream", "/write/ADDRESS//", "/write/ADDRESS/.", "/write/ADDRESS/..", "/write/other/stream",
			"/write/ADDRESS/"+strings.Repeat("s", 1+s.IntN(6000)), "write/ADDRESS/stream", "/write/ADDRESS/str eam")
	}
}

func (s *script) changeLine(r *randomRequest) {
	if s.chance(2) {
		r.method = pick(s, "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "post", "PO ST", "", " POST", "POST ",
			"P\tOST", "(POST)", strings.Repeat("P", 40))
		return
	}
	r.version = pick(s, "HTTP/1.0", "HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/1", "")
}

func (s *script) changeHost(r *randomRequest) {
	hosts := pick(s, []string{}, []string{"Host:"}, []string{"Host: localhost", "Host: localhost"}, []string{"Host: localhost", "host: other.example"},
		[]string{"Host: localhost:80"}, []string{"HOST: localhost"}, []string{"Host: user@localhost"}, []string{"Host: local host"},
		[]string{"Host: other.example"}, []string{"Host: LOCALHOST"}, []string{"Host: localhost/"}, []string{"Host:localhost"}, []string{"Host: \tlocalhost "})
	r.header = append(hosts, r.header[1:]...)
}

func (s *script) changeLength(r *randomRequest) {
	n := len(r.body)
	r.length = pick(s, fmt.Sprint(n+1), fmt.Sprint(max(0, n-1)), fmt.Sprint(n+1+s.IntN(300)), fmt.Sprint("00", n), fmt.Sprint("+", n),
		fmt.Sprint("-", n), "x", fmt.Sprintf("0x%x", n), fmt.Sprint(n, " "), fmt.Sprint(" ", n), fmt.Sprint(n, "\t"), fmt.Sprint(n, ", ", n), "",
		"65536", "65537", "99999999999", "18446744073709551617", fmt.Sprint(n, "\r\nContent-Length: ", n),
		fmt.Sprint(n, "\r\ncontent-length: ", n+1), fmt.Sprint(n, "\r\n "), fmt.Sprint("\r\n ", n))
}

// changeHeader adds a line to the header. The long ones are as far from max_header_size as net/http's own reading ahead can
// move that limit.
func (s *script) changeHeader(r *randomRequest) {
	r.header = append(r.header, pick(s,
		"Expect: 100-continue", "expect: 100-Continue", "Expect: 200-ok", "Connection: close", "Connection: keep-alive", "connection: Close, x",
		"Connection: Upgrade\r\nUpgrade: websocket", "Upgrade: h2c", "Trailer: X-Late", "Trailer: Content-Length", "Idempotency-Key:",
		"Idempotency-Key: a b", "idempotency-key: low", "Idempotency-Key: \"q\"", "Idempotency-Key: 1\r\nIdempotency-Key: 1", "Idempotency_Key: 1",
		"Idempotency-Key: "+strings.Repeat("k", 250+s.IntN(10)), "Idempotency-Key: 1\r\n 2", "Idempotency-Key: \x01", "Idempotency-Key: ä",
		"Megaphone-Merge: append", "Megaphone-Merge: replace", "megaphone-merge: append", "Megaphone-Merge: Append", "Megaphone-Merge:",
		"Megaphone-Merge: append\r\nMegaphone-Merge: append", "Megaphone-Merge: append, append", "Megaphone_Merge: append",
		"Content-Type: application/json", "Content-Type: text/plain", "X-Odd: 1", "X-Odd : 1", " X-Odd: 1", "X-Odd: a\r\n folded", "X Odd: 1",
		"X-Odd: \x00", "X-Odd: \x7f", "X-Odd: \xff", "X-Odd:", ":", "no colon", "X-Odd: a\rb", "Pragma: no-cache", "Origin: https://example.com",
		"X-Long: "+strings.Repeat("l", 3500+s.IntN(700)), "X-Long: "+strings.Repeat("l", 20_000), "Content-Encoding: gzip",
		"Range: bytes=0-1", "If-None-Match: *", "Cookie: a=b\r\nCookie: c=d", "Keep-Alive: timeout=1", "TE: trailers"))
}

// changeLayout changes how the header is written.
func (s *script) changeLayout(r *randomRequest) {
	i := s.IntN(len(r.header) + 1)
	if i == len(r.header) {
		r.lineEnd = pick(s, "\n", "\r\r\n", "\n\r\n")
		return
	}
	name, value, _ := strings.Cut(r.header[i], ": ")
	r.header[i] = pick(s, strings.ToLower(name)+": "+value, strings.ToUpper(name)+": "+value, name+":"+value, name+":\t"+value,
		name+":   "+value+"  ", name+": "+value+"\r\n\t", name+":\r\n "+value, name+" : "+value, name+": "+value+"\r", name+": "+value+";")
}

// chunk sends the body in chunks.
func (s *script) chunk(r *randomRequest) {
	var chunks strings.Builder
	for rest := r.body; rest != ""; {
		n := 1 + s.IntN(len(rest))
		fmt.Fprintf(&chunks, "%x%s\r\n%s\r\n", n, pick(s, "", "", "", ";x=y", " ", ";x=\"\r\n\""), rest[:n])
		rest = rest[n:]
	}
	chunks.WriteString(pick(s, "0\r\n\r\n", "0\r\n\r\n", "0\r\nX-Late: 1\r\n\r\n", "0\r\nContent-Length: 1\r\n\r\n", "00\r\n\r\n", "0\n\n", "x\r\n", "-1\r\n"))
	r.body = chunks.String()
	r.header = append(r.header, "Transfer-Encoding: "+pick(s, "chunked", "chunked", "chunked", "Chunked", "gzip, chunked", "identity", "chunked, chunked", ""))
	if !s.chance(4) {
		r.length = ""
	}
}

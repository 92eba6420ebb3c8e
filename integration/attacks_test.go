package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A hostile sends malformed requests to a server.
type hostile struct {
	*commandServer

	plain, secure string
	tls           *tls.Config
	victim        channel
	admin         *http.Client
	written       atomic.Int64 // how many messages the normal clients have written

	mu       sync.Mutex
	statuses map[int]int // how many replies had each status; 0 counts those that are not HTTP or never came
}

// attacks returns all kinds of attacks. Common kinds are in it several times.
func (h *hostile) attacks() []func() {
	return []func(){
		h.mutatedBody, h.mutatedBody, h.mutatedBody, h.wrongMethod, h.strangePath, h.strangePath, h.hugeNumber, h.garbage,
		h.garbage, h.headerFlood, h.slowBody, h.vanishing, h.badUpgrade, func() { h.resets(20) },
	}
}

// bodies returns requests that the parsers accept, as path, content type and body. The attacks spoil the bodies.
func (h *hostile) bodies() [][3]string {
	write := "/write/" + h.victim.ProducerAddress + "/s"
	return [][3]string{
		{write, "application/json", `{"a":[1,2.5e3,"é\u00e9",null,true],"b":{"c":{}}}`},
		{write, "text/plain", `hello`},
		{"/write-batch", "application/json", `{"channels":["` + h.victim.ProducerAddress + `"],"messages":[{"streamId":"s","body":{"x":1}}]}`},
		{"/channelsExists", "application/json", `{"channels":["` + h.victim.ConsumerAddress + `","main.x"]}`},
		{"/write", "application/x-ndjson", `{"channel":"` + h.victim.ProducerAddress + `","streamId":"s","body":[1]}` + "\n{}\nnot JSON\n"},
		{"/create", "application/json", `{"protocols":["HTTP_STREAM_SSE_V1"]}`},
	}
}

func (h *hostile) mutatedBody() {
	bodies := h.bodies()
	b := bodies[rand.N(len(bodies))]
	h.raw(request("POST", b[0], "Content-Type: "+b[1], spoil(b[2])))
}

// spoil changes a text at random, in a way that breaks parsers.
func spoil(text string) string {
	if text == "" {
		return text
	}
	i := rand.N(len(text))
	switch rand.N(8) {
	case 0:
		return text[:i]
	case 1:
		return text[:i] + string([]byte{byte(rand.N(256))}) + text[i+1:]
	case 2:
		return text[:i] + text + text[i:]
	case 3:
		return strings.Repeat("[", 1+rand.N(50_000))
	case 4:
		return strings.Repeat(`{"a":`, 1+rand.N(10_000)) + "1"
	case 5:
		return text[:i] + "\xff\xfe\x00\u2028" + text[i:]
	case 6:
		return text + strings.Repeat(" ", rand.N(200_000)) // exceeds the limit half of the time
	default:
		return strings.ReplaceAll(text, "1", strings.Repeat("9", rand.N(50_000))+"e"+strings.Repeat("9", 9))
	}
}

func (h *hostile) wrongMethod() {
	methods := []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "HEAD", "BREW", "get"}
	paths := []string{"/create", "/write/x/y", "/write", "/write-batch", "/channelsExists", "/health", "/channel/x"}
	h.raw(request(methods[rand.N(len(methods))], paths[rand.N(len(paths))], "X: y", ""))
}

func (h *hostile) strangePath() {
	paths := []string{
		"/read/../../../etc/passwd", "/read/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/read/%00", "/read/main.%ff%fe", "/read//", "//read/x",
		"/write/" + h.victim.ProducerAddress + "/", "/write/" + h.victim.ProducerAddress + "/%2f%00", "/write/a/b/c",
		"/read/" + strings.Repeat("a", 50_000), "/read/" + h.victim.ProducerAddress, "/channel/..%2f..%2fdrain",
		"/read/%", "/read/" + h.victim.ConsumerAddress + "%0d%0aX-Injected:%20y", "*", "http://other/create",
		"/channel/" + h.victim.ConsumerAddress + "/../x", "/READ/x", "/write-batch/x", "/megaphone/stats", "/;/read/x",
	}
	method := []string{"HEAD", "POST"}[rand.N(2)] // not GET: the server delays its answer to a read of an unknown channel, on purpose
	h.raw(request(method, paths[rand.N(len(paths))], "Content-Type: application/json", "1"))
}

func (h *hostile) hugeNumber() {
	digits := strings.Repeat("9", 1+rand.N(400))
	read := "/read/" + h.victim.ConsumerAddress
	requests := []string{
		request("GET", read+"?poll="+digits+"h", "X: y", ""),
		request("GET", read+"?poll=-"+digits+"s", "X: y", ""),
		request("GET", read+"?poll=0&after="+digits, "X: y", ""),
		request("GET", read+"?poll=0", "Last-Event-ID: "+digits, ""),
		"POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: " + digits + "\r\n\r\n",
		"POST /write-batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9223372036854775807\r\n\r\n{}",
		"POST /write HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" + digits + "\r\n",
		request("GET", "/read/x", "Accept: text/event-stream;q="+digits, ""),
	}
	h.raw(requests[rand.N(len(requests))])
}

func (h *hostile) garbage() {
	switch rand.N(6) {
	case 0:
		noise := make([]byte, 1+rand.N(2000))
		for i := range noise {
			noise[i] = byte(rand.N(256))
		}
		h.raw(string(noise) + "\r\n\r\n")
	case 1:
		h.raw("GET /read/x HTTP/9.9\r\nHost: x\r\n\r\n")
	case 2:
		h.raw("POST /create HTTP/1.1\r\n\r\n") // no Host
	case 3:
		h.raw("POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n")
	case 4:
		h.raw("POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
	default:
		h.raw("POST /create HTTP/1.0\r\nContent-Length: 2\r\nContent-Length: 3\r\nHost: x\r\n\r\n{}\r\n")
	}
}

func (h *hostile) headerFlood() {
	var fields strings.Builder
	for i := range 1 + rand.N(2000) {
		fmt.Fprintf(&fields, "X-%d: %s\r\n", i, strings.Repeat("v", rand.N(100)))
	}
	h.raw("POST /create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + fields.String() + "Idempotency-Key: " + strings.Repeat("k", 5000) + "\r\n\r\n")
}

// slowBody slowly sends a part of a body, and never the rest.
func (h *hostile) slowBody() {
	b := h.bodies()[rand.N(6)]
	h.dial(func(conn net.Conn) {
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", b[0], b[1], len(b[2]))
		for i := range 3 {
			_, _ = io.WriteString(conn, b[2][i:i+1])
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// vanishing begins to read and leaves at once.
func (h *hostile) vanishing() {
	h.dial(func(conn net.Conn) {
		accept := []string{"*/*", "text/event-stream"}[rand.N(2)]
		_, _ = io.WriteString(conn, request("GET", "/read/"+h.victim.ConsumerAddress+"?after=", "Accept: "+accept, ""))
		if tcp, ok := conn.(*net.TCPConn); ok && rand.N(2) == 0 {
			_ = tcp.SetLinger(0) // a reset
		}
	})
}

func (h *hostile) badUpgrade() {
	key := []string{"dGhlIHNhbXBsZSBub25jZQ==", "short", ""}[rand.N(3)]
	version := []string{"13", "12", "999999999999999999999"}[rand.N(3)]
	upgrade := "GET /read/" + h.victim.ConsumerAddress + "?after= HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Version: " + version + "\r\n\r\n"
	frames := []string{
		"\x81\x05hello", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff....",
		"\x89\xfe\x00\x7e....", "\x88\x80....", "\x81\x85....hello", strings.Repeat("\x01\x80....", 1000),
	}
	h.raw(upgrade + frames[rand.N(len(frames))])
}

// resets opens streams on one HTTP/2 connection and resets each at once.
func (h *hostile) resets(streams int) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", h.secure, h.tls)
	if err != nil {
		h.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range streams {
		block.Reset()
		method, path := "POST", "/write/"+h.victim.ProducerAddress+"/s"
		if i%2 == 0 {
			method, path = "GET", "/read/"+h.victim.ConsumerAddress+"?after="
		}
		for _, f := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", h.secure}, {":path", path}, {"content-type", "application/json"}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		id := uint32(2*i + 1)
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: method == "GET"})
		if method == "POST" {
			_ = framer.WriteData(id, false, []byte(`{"a":`))
		}
		_ = framer.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	_ = framer.WritePing(false, [8]byte{})
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return // the server may close the connection
		}
		if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
			return
		}
	}
}

func request(method, path, field, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\nContent-Length: %d\r\n\r\n%s", method, path, field, len(body), body)
}

// dial opens a connection, calls use, and closes the connection.
func (h *hostile) dial(use func(net.Conn)) {
	conn, err := net.DialTimeout("tcp", h.plain, 30*time.Second)
	if err != nil {
		h.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	use(conn)
}

// raw sends bytes and checks the answer, if there is one. A server error is only accepted if it is a timeout or a
// limit, or if Go's server sends it.
func (h *hostile) raw(text string) {
	h.dial(func(conn net.Conn) {
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.WriteString(conn, text)
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		}()
		defer func() { <-sent }()
		defer conn.Close()
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			h.count(0)
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		h.count(response.StatusCode)
		if response.StatusCode < 500 || ofGo(response.StatusCode, string(body)) {
			return
		}
		var refused struct{ Code string }
		_ = json.Unmarshal(body, &refused)
		if refused.Code != "TIMEOUT" && refused.Code != "LIMIT_REACHED" {
			h.Errorf("%.300q was answered with %d %.300s", text, response.StatusCode, body)
		}
	})
}

// ofGo reports whether Go's server has sent a reply before any handler ran. It replies with 501 to a transfer encoding
// that it does not know, and with 505 to an HTTP version.
func ofGo(status int, body string) bool {
	return (status == http.StatusNotImplemented || status == http.StatusHTTPVersionNotSupported) && !strings.HasPrefix(body, "{")
}

func (h *hostile) count(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses[status]++
}

func (h *hostile) counts() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var text []string
	for status, n := range h.statuses {
		text = append(text, fmt.Sprintf("%d: %d", status, n))
	}
	slices.Sort(text)
	return strings.Join(text, ", ")
}

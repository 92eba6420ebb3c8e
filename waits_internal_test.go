package megaphone

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// A pipeServer serves a Handler with net/http over pipes. So the whole server can be in a synctest bubble. Tests of waits
// that need no server are in broker/memory and internal/delivery.
type pipeServer struct {
	*testing.T

	handler *Handler
	conns   chan net.Conn
	ended   chan time.Time // receives the time when the handler of a request has returned
	channel broker.Addresses
}

const (
	testRead      = 20 * time.Second
	testStream    = time.Minute
	testWriteTime = 10 * time.Second
)

func newPipeServer(t *testing.T) *pipeServer {
	t.Helper()
	app := &App{
		Agent: "main", ReadDuration: caddy.Duration(testRead), StreamDuration: caddy.Duration(testStream),
		Heartbeat: caddy.Duration(time.Hour), WriteTimeout: caddy.Duration(testWriteTime), MaxMessageSize: 1 << 20,
		limits: brokerfixture.Limits, registry: newRegistry(memory.New()), unloaded: make(chan struct{}),
	}
	app.limits.Buffer = 1
	app.broker = app.registry.broker
	s := &pipeServer{T: t, handler: &Handler{app: app, logger: zap.NewNop()}, conns: make(chan net.Conn), ended: make(chan time.Time, 2000)}
	for e := range endpointCount {
		s.handler.serves[e] = true
	}
	for k := range transport.KindCount {
		s.handler.offers[k] = true
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.ended <- time.Now() }()
		if err := s.handler.ServeHTTP(w, r, nil); err != nil {
			t.Error(err)
		}
	}), ConnContext: conn.With}
	go func() { _ = server.Serve(pipeListener{s.conns}) }()
	t.Cleanup(func() {
		app.registry.Close()
		_ = server.Close()
	})
	var err error
	if s.channel, err = app.broker.Create(t.Context(), "main", app.limits); err != nil {
		t.Fatal(err)
	}
	return s
}

// A pipeListener accepts connections from a Go channel.
type pipeListener struct{ conns chan net.Conn }

func (l pipeListener) Accept() (net.Conn, error) {
	if conn, ok := <-l.conns; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l pipeListener) Close() error   { close(l.conns); return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// get sends a GET request. It returns the client's side of the connection.
func (s *pipeServer) get(path string, headers ...string) net.Conn {
	s.Helper()
	return s.send("GET "+path, headers, "")
}

// post sends a POST request. It returns the client's side of the connection.
func (s *pipeServer) post(path, contentType, body string) net.Conn {
	s.Helper()
	return s.send("POST "+path, []string{"Content-Type: " + contentType, fmt.Sprintf("Content-Length: %d", len(body))}, body)
}

func (s *pipeServer) send(request string, headers []string, body string) net.Conn {
	s.Helper()
	client, server := net.Pipe()
	s.Cleanup(func() { client.Close() })
	s.conns <- server
	head := append([]string{request + " HTTP/1.1", "Host: localhost"}, headers...)
	if _, err := io.WriteString(client, strings.Join(head, "\r\n")+"\r\n\r\n"+body); err != nil {
		s.Fatal(err)
	}
	return client
}

// skipHeader reads the header of a response, and not a byte more.
func (s *pipeServer) skipHeader(client net.Conn) {
	s.Helper()
	var header []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(header), "\r\n\r\n"); header = append(header, one...) {
		if _, err := client.Read(one); err != nil {
			s.Fatalf("%q: %v", header, err)
		}
	}
}

// status reads a whole response in the background, and then sends its status. It sends 0 if that fails.
func (s *pipeServer) status(client net.Conn) <-chan int {
	status := make(chan int, 1)
	go func() {
		response, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			status <- 0
			return
		}
		_, _ = io.Copy(io.Discard, response.Body)
		status <- response.StatusCode
		response.Body.Close()
	}()
	return status
}

// fill fills the channel, which has room for one message.
func (s *pipeServer) fill() {
	s.Helper()
	if err := s.handler.app.broker.Publish(s.Context(), s.channel.Producer, brokerfixture.Message(s), s.handler.app.limits); err != nil {
		s.Fatal(err)
	}
}

func (s *pipeServer) delete() {
	s.Helper()
	if err := s.handler.app.broker.Delete(s.Context(), s.channel.Producer); err != nil {
		s.Fatal(err)
	}
}

// A wait is a request that waits for something.
type wait struct {
	// start sends the request. It returns the client's side of the connection.
	start func(*pipeServer) net.Conn
	// readsNothing says that the client reads nothing more after start.
	readsNothing bool

	// How long the wait lasts at most in each case, or never.
	gone     time.Duration // after the client is gone
	deadline time.Duration // if nothing happens
	deleted  time.Duration // after the channel is deleted
	unloaded time.Duration // after the configuration is replaced
	exit     time.Duration // after the process begins to exit

	// The status of the response at the deadline (also if the configuration is replaced), after the channel is deleted, and
	// after the process begins to exit.
	status [3]int
}

const (
	// never says that an event does not end the wait.
	never = -1
	// closeTimeout is how long a client may leave the close of its WebSocket unanswered: coder/websocket waits twice 5s.
	closeTimeout = 10 * time.Second
)

// upgrade is the header of a request for a WebSocket.
var upgrade = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

var waits = map[string]wait{
	"read": {
		start:    func(s *pipeServer) net.Conn { return s.get("/read/" + s.channel.Consumer) },
		deadline: testRead, unloaded: testRead, status: [3]int{200, 200, 200},
	},
	"events": {
		start:    func(s *pipeServer) net.Conn { return s.get("/read/"+s.channel.Consumer, "Accept: text/event-stream") },
		deadline: testStream, unloaded: delivery.MaxSpread, status: [3]int{200, 200, 200},
	},
	"poll": {
		start:    func(s *pipeServer) net.Conn { return s.get("/read/" + s.channel.Consumer + "?poll=15s") },
		deadline: 15 * time.Second, unloaded: 15 * time.Second, status: [3]int{200, 200, 200},
	},
	"held write": {
		start: func(s *pipeServer) net.Conn {
			s.fill()
			return s.post("/write/"+s.channel.Producer+"/s", "application/json", `"body"`)
		},
		deadline: brokerfixture.Limits.Hold, unloaded: brokerfixture.Limits.Hold, status: [3]int{503, 404, 503},
	},
	"held batch": {
		start: func(s *pipeServer) net.Conn {
			s.fill()
			return s.post("/write-batch", "application/json",
				fmt.Sprintf(`{"channels":[%q],"messages":[{"streamId":"s","body":1}]}`, s.channel.Producer))
		},
		deadline: brokerfixture.Limits.Hold, unloaded: brokerfixture.Limits.Hold, status: [3]int{201, 201, 201},
	},
	"ingest": {
		start: func(s *pipeServer) net.Conn {
			s.fill()
			return s.post("/write", "application/x-ndjson", fmt.Sprintf(`{"channel":%q,"streamId":"s","body":1}`, s.channel.Producer))
		},
		deadline: brokerfixture.Limits.Hold, unloaded: brokerfixture.Limits.Hold, status: [3]int{201, 201, 201},
	},
	"ingest whose client sends nothing": { // its deadline is Caddy's read_idle
		start: func(s *pipeServer) net.Conn {
			return s.send("POST /write", []string{"Content-Type: application/x-ndjson", "Content-Length: 100"}, "")
		},
		deadline: never, deleted: never, unloaded: never, exit: conn.MaxExitLinger, status: [3]int{2: 503},
	},
	"refused read": {
		start:    func(s *pipeServer) net.Conn { return s.get("/read/main.unknown") },
		deadline: time.Second, deleted: never, unloaded: time.Second, status: [3]int{404, 0, 404},
	},
	"read whose client takes nothing": {
		start: func(s *pipeServer) net.Conn {
			client := s.get("/read/" + s.channel.Consumer)
			s.skipHeader(client)
			s.fill()
			return client
		},
		readsNothing: true,
		deadline:     testWriteTime, deleted: testWriteTime, unloaded: testWriteTime, exit: maxExitWrite,
	},
	"poll whose client takes nothing": {
		start: func(s *pipeServer) net.Conn {
			s.fill()
			return s.get("/read/" + s.channel.Consumer + "?poll=0")
		},
		readsNothing: true,
		deadline:     testWriteTime, deleted: testWriteTime, unloaded: testWriteTime, exit: maxExitWrite,
	},
	"websocket whose client takes nothing": { // the exit does not wait so long for it: see TestExitWaitsForWebSockets
		start: func(s *pipeServer) net.Conn {
			client := s.get("/read/"+s.channel.Consumer, upgrade...)
			s.skipHeader(client)
			return client
		},
		readsNothing: true,
		deadline:     testStream + closeTimeout, deleted: closeTimeout, unloaded: delivery.MaxSpread + closeTimeout, exit: closeTimeout,
	},
}

// TestEveryWaitEnds checks that every wait ends when its client is gone, at its deadline, when its channel is deleted, when
// its configuration is replaced, and when the process exits.
func TestEveryWaitEnds(t *testing.T) {
	for name, wait := range waits {
		for cause, test := range map[string]struct {
			act    func(*pipeServer, net.Conn)
			within time.Duration
			status int
		}{
			"client gone":            {func(_ *pipeServer, client net.Conn) { client.Close() }, wait.gone, 0},
			"deadline":               {func(*pipeServer, net.Conn) {}, wait.deadline, wait.status[0]},
			"channel deleted":        {func(s *pipeServer, _ net.Conn) { s.delete() }, wait.deleted, wait.status[1]},
			"configuration replaced": {func(s *pipeServer, _ net.Conn) { close(s.handler.app.unloaded) }, wait.unloaded, wait.status[0]},
			"process exits":          {func(s *pipeServer, _ net.Conn) { s.handler.app.registry.Close() }, wait.exit, wait.status[2]},
		} {
			if test.within == never {
				continue
			}
			t.Run(name+", "+cause, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t)
					client := wait.start(s)
					var status <-chan int
					if !wait.readsNothing {
						status = s.status(client)
					}
					synctest.Wait()
					select {
					case <-s.ended:
						t.Fatal("the request does not wait")
					default:
					}
					start := time.Now()
					test.act(s, client)
					took := (<-s.ended).Sub(start)
					if took > test.within {
						t.Errorf("the wait lasted %v, want at most %v", took, test.within)
					}
					if cause == "configuration replaced" && wait.unloaded == wait.deadline && took != wait.deadline {
						t.Errorf("the wait lasted %v, want its whole time of %v", took, wait.deadline)
					}
					if cause != "client gone" && status != nil {
						if got := <-status; got != test.status {
							t.Errorf("status %d, want %d", got, test.status)
						}
					}
				})
			})
		}
	}
}

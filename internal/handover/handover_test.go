package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A place is an address at which listeners can be opened one after the other. Clients get to the one that was opened
// last.
type place struct{ newest *memory }

// memory is a listener in memory.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *place) listen() *memory {
	p.newest = &memory{conns: make(chan net.Conn), closed: make(chan struct{})}
	return p.newest
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "here" }

// dial opens a connection to the newest listener.
func (p *place) dial(t *testing.T) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	select {
	case p.newest.conns <- theirs:
	case <-time.After(time.Second):
		t.Fatal("the connection is not accepted")
	}
	t.Cleanup(func() { ours.Close() })
	return &client{t, ours, bufio.NewReader(ours)}
}

type client struct {
	t    *testing.T
	conn net.Conn
	from *bufio.Reader
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		c.t.Error(err)
	}
}

// answer returns the body of the next response, or what went wrong.
func (c *client) answer() string {
	response, err := http.ReadResponse(c.from, nil)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func (c *client) expect(want string) {
	c.t.Helper()
	if got := c.answer(); got != want {
		c.t.Errorf("the client got %q, not %q", got, want)
	}
}

// A server answers with its name and what it was sent.
type server struct {
	*http.Server

	t        *testing.T
	ends     chan struct{} // lets requests to /slow go on
	served   []string
	accepted int           // connections
	resumes  chan struct{} // lets requests go on to the handler; nil if they need not wait
}

func (p *place) serve(t *testing.T, name string) *server {
	s := &server{t: t, ends: make(chan struct{})}
	s.Server = &http.Server{
		IdleTimeout: time.Minute,
		Protocols:   new(http.Protocols),
		ConnState: func(conn net.Conn, state http.ConnState) {
			if c, ok := conn.(*Conn); ok {
				c.Changed(state)
			}
			if state == http.StateNew {
				s.accepted++
			}
			if state == http.StateActive && s.resumes != nil {
				<-s.resumes
			}
		},
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if c, ok := conn.(*Conn); ok {
				return c.Context(ctx)
			}
			return ctx
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value("any") // as Caddy does
			s.served = append(s.served, r.URL.Path)
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			switch r.URL.Path {
			case "/slow":
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				<-s.ends
			case "/abort":
				<-s.ends
				panic(http.ErrAbortHandler)
			}
			fmt.Fprintf(w, "%s: %s %s", name, r.URL.Path, body)
		}),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	listener := Listen(p.listen(), Settings{Idle: time.Minute})
	go func() { _ = s.Serve(listener) }()
	synctest.Wait()
	t.Cleanup(func() {
		s.Close()
		time.Sleep(time.Second) // Shutdown looks now and then
	})
	return s
}

// stop shuts the server down, as Caddy does: without waiting for requests.
func (s *server) stop() {
	go func() { _ = s.Shutdown(context.Background()) }()
	synctest.Wait()
}

func (s *server) expectServed(paths ...string) {
	s.t.Helper()
	if got, want := fmt.Sprint(s.served), fmt.Sprint(paths); got != want {
		s.t.Errorf("served were %s, not %s", got, want)
	}
}

const get = "GET /%s HTTP/1.1\nHost: x\n\n"

func post(path, body string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\nHost: x\nContent-Length: %d\n\n%s", path, len(body), body)
}

func TestAConnectionThatWaitsGoesToTheHeir(t *testing.T) {
	for _, test := range []struct{ name, before, then, answer, next string }{
		{"new", "", "", "", ""},
		{"after a request", fmt.Sprintf(get, "a"), "", "old: /a ", ""},
		{"after a request with a body", post("a", "1234"), "", "old: /a 1234", ""},
		{"after a request with a long header", "GET /a HTTP/1.1\nHost: x\nCookie: " + strings.Repeat("c", 9000) + "\n\n", "", "old: /a ", ""},
		{"with the begin of a request", "", "GE", "", "T /b HTTP/1.1\nHost: x\n\n"},
		{"with the begin of a body", post("a", "1"), "POST /b HTTP/1.1\nHost: x\nContent-Length: 4\n", "old: /a 1", "\n1234"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p place
				old := p.serve(t, "old")
				c := p.dial(t)
				if test.before != "" {
					c.send(test.before)
					c.expect(test.answer)
				}
				c.send(test.then)
				synctest.Wait()
				heir := p.serve(t, "new")
				time.Sleep(10 * time.Second) // Shutdown leaves connections that are new alone
				old.stop()
				time.Sleep(10 * time.Second)
				if test.next != "" {
					c.send(test.next)
				} else {
					c.send(post("b", "1234"))
				}
				if strings.Contains(test.next, "GET") || strings.HasPrefix(test.next, "T ") {
					c.expect("new: /b ")
				} else {
					c.expect("new: /b 1234")
				}
				heir.expectServed("/b")
				c.send(fmt.Sprintf(get, "c"))
				c.expect("new: /c ")
				heir.stop()
				c.expect("unexpected EOF")
			})
		})
	}
}

// net/http reads a request and closes the connection without an answer, when it began to shut down in the meantime.
func TestARequestThatIsReadTooLateGoesToTheHeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		c.send("POST /a HTTP/1.1\nHost: x\nContent-")
		synctest.Wait()
		heir := p.serve(t, "new")
		old.stop() // leaves the connection, since it is new
		c.send("Length: 4\n\n1234")
		c.expect("new: /a 1234")
		old.expectServed()
		heir.expectServed("/a")
		heir.stop()
	})
}

// It does so even if the server begins to shut down between the moment in which it tells of the request and the one in
// which it calls the handler.
func TestARequestThatIsReadAsTheServerBeginsToShutDownGoesToTheHeir(t *testing.T) {
	for name, request := range map[string]string{"without a body": fmt.Sprintf(get, "b"), "with one": post("b", "1234")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p place
				old := p.serve(t, "old")
				c := p.dial(t)
				c.send(fmt.Sprintf(get, "a"))
				c.expect("old: /a ")
				old.resumes = make(chan struct{})
				c.send(request)
				synctest.Wait()
				heir := p.serve(t, "new")
				old.stop()
				close(old.resumes)
				if got := c.answer(); !strings.HasPrefix(got, "new: /b") {
					t.Errorf("the client got %q", got)
				}
				old.expectServed("/a")
				heir.expectServed("/b")
				heir.stop()
			})
		})
	}
}

// net/http itself answers what it cannot read.
func TestARequestThatCannotBeReadIsNotPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		old.resumes = make(chan struct{})
		c.send("GET /a without a version\n\n")
		synctest.Wait()
		heir := p.serve(t, "new")
		close(old.resumes)
		c.expect("400 Bad Request")
		old.stop()
		synctest.Wait()
		heir.expectServed()
		if heir.accepted > 0 {
			t.Error("the connection was passed on")
		}
		heir.stop()
	})
}

// From when there is an heir until the server shuts down, a request waits for what becomes of it.
func TestARequestInBetweenWaitsForTheHeir(t *testing.T) {
	for _, test := range []struct {
		becomes, answer string
		takes           time.Duration
	}{
		{"heir", "new: /b ", time.Millisecond},
		{"failed", "old: /b ", time.Millisecond},
		{"slow", "old: /b ", suspense},
	} {
		synctest.Test(t, func(t *testing.T) {
			var p place
			old := p.serve(t, "old")
			c := p.dial(t)
			c.send(fmt.Sprintf(get, "a"))
			c.expect("old: /a ")
			heir := p.serve(t, "new")
			began := time.Now()
			c.send(fmt.Sprintf(get, "b"))
			time.Sleep(time.Millisecond)
			switch test.becomes {
			case "heir":
				old.stop()
			case "failed":
				heir.stop()
			}
			c.expect(test.answer)
			if waited := time.Since(began); waited > test.takes {
				t.Errorf("it took %s", waited)
			}
			old.stop()
			heir.stop()
		})
	}
}

func TestWhatIsServedIsNotServedAgain(t *testing.T) {
	for _, test := range []struct{ name, send, answer string }{
		{"a request", fmt.Sprintf(get, "slow"), "old: /slow "},
		{"one with a body", post("slow", "1234"), "old: /slow 1234"},
		{"one that is aborted", fmt.Sprintf(get, "abort"), "unexpected EOF"},
		{"one with a body that is aborted", post("abort", "1234"), "unexpected EOF"},
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
				c.expect(test.answer)
				synctest.Wait()
				heir.expectServed()
				if strings.HasPrefix(test.answer, "old") {
					c.send(fmt.Sprintf(get, "b")) // it was not told that the connection ends
					c.expect("new: /b ")
				}
				heir.stop()
			})
		})
	}
}

// Without being told what the server does, nothing is known of a connection.
func TestAConnectionOfWhichNothingIsToldIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		old.ConnState = nil
		c := p.dial(t)
		c.send(fmt.Sprintf(get, "a"))
		c.expect("old: /a ")
		heir := p.serve(t, "new")
		old.stop()
		began := time.Now()
		c.expect("unexpected EOF")
		if time.Since(began) > 0 || heir.accepted > 0 {
			t.Error("the connection was kept")
		}
	})
}

func TestConnectionsOfAConfigurationThatFailsGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		failed := p.serve(t, "failed")
		c := p.dial(t)
		c.send(fmt.Sprintf(get, "a"))
		c.expect("failed: /a ")
		failed.stop()
		c.send(fmt.Sprintf(get, "b"))
		c.expect("old: /b ")
		old.stop()
	})
}

func TestWithoutAnHeirConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		c.send(fmt.Sprintf(get, "a"))
		c.expect("old: /a ")
		old.stop()
		c.expect("unexpected EOF")
		if len(groups) != 0 {
			t.Error("something is left of the listener")
		}
	})
}

// A connection that waits between two servers is closed with the last, and when it is idle for too long.
func TestAConnectionThatWaitsIsClosed(t *testing.T) {
	for _, stops := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var p place
			old := p.serve(t, "old")
			c := p.dial(t)
			c.send(fmt.Sprintf(get, "a"))
			c.expect("old: /a ")
			heir := p.serve(t, "new")
			old.stop()
			began := time.Now()
			if stops {
				heir.stop()
			}
			c.expect("unexpected EOF")
			if waited := time.Since(began); waited > time.Minute || stops && waited > 0 {
				t.Errorf("it was closed after %s", waited)
			}
			if !stops {
				heir.stop()
			}
		})
	}
}

// An ownWordsListener tells in its own words that it was closed, as Caddy's do on some systems.
type ownWordsListener struct {
	*memory

	told int
}

func (l *ownWordsListener) Accept() (net.Conn, error) {
	conn, err := l.memory.Accept()
	if err == nil {
		return conn, nil
	}
	if l.told++; l.told > 10 {
		runtime.Goexit() // or the bubble would not end
	}
	return nil, errors.New("closed, in a way")
}

func TestNothingIsAcceptedAfterTheSocketWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		inner := &ownWordsListener{memory: p.listen()}
		if err := Listen(inner, Settings{}).Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if inner.told > 1 {
			t.Errorf("it was asked %d times", inner.told)
		}
	})
}

// HTTP/2 says in time that it goes, and keeps its streams.
func TestHTTP2IsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p place
		old := p.serve(t, "old")
		c := p.dial(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(io.Discard, c.from)
		}()
		c.send("PRI * HTTP/2.0\n\nSM\n\n")
		if _, err := c.conn.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil { // SETTINGS
			t.Fatal(err)
		}
		synctest.Wait()
		heir := p.serve(t, "new")
		old.stop()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the connection goes on")
		}
		if heir.accepted > 0 {
			t.Error("the heir has got it")
		}
	})
}

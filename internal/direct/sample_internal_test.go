package direct

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// A testSite is a server with one site, whose writes are served directly, and samples are frequent. Its handler is the
// simplest that there can be.
type testSite struct {
	*testing.T
	*Site

	address broker.Addresses
	// before changes a request, or what the handler has made of it. It returns false if it has replied itself.
	before  atomic.Pointer[func(http.ResponseWriter, *http.Request, *written) bool]
	next    atomic.Pointer[Site] // of the configuration that has replaced this one, if any
	log     *observer.ObservedLogs
	client  net.Conn
	replies *bufio.Reader
}

// written is what the handler makes of a write.
type written struct{ producer, streamID, body string }

func newTestSite(t *testing.T) *testSite {
	b := memory.New()
	t.Cleanup(b.Close)
	address, err := b.Create(t.Context(), "main", brokerfixture.Limits)
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	limits := brokerfixture.Limits
	limits.Buffer = 10_000
	s := &testSite{T: t, address: address, log: logs}
	s.Site = NewSite(Options{
		Broker: b, Limits: limits, MaxMessageSize: 1000, WriteTimeout: time.Second, Logger: zap.New(core), Conns: new(Conns),
		Waits: new(atomic.Int32), Refuse: func(w http.ResponseWriter, r *http.Request, _ string, err error) { httpjson.ErrorOf(err).Write(w, r) },
		Count: prometheus.NewGauge(prometheus.GaugeOpts{}), SampleEvery: 5,
		Samples: prometheus.NewCounter(prometheus.CounterOpts{}), Mismatches: prometheus.NewCounter(prometheus.CounterOpts{}),
		Over: func() bool { return false }, First: func(caddyhttp.MiddlewareHandler) Answer { return Yes },
	})
	s.serve()
	return s
}

func (s *testSite) serve() {
	listener, err := new(net.ListenConfig).Listen(s.Context(), "unix", filepath.Join(s.TempDir(), "s"))
	if err != nil {
		s.Fatal(err)
	}
	site := &caddyhttp.Server{Routes: caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{nil}}}}
	// A server of httptest may not be closed while a connection is given back to it: it counts connections by a WaitGroup.
	server := &http.Server{
		Handler: s, ConnContext: conn.With, ReadHeaderTimeout: time.Minute,
		ConnState: func(c net.Conn, state http.ConnState) { s.now().Ended(c, state) },
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), caddyhttp.ServerCtxKey, site)
		},
	}
	go func() { _ = server.Serve(listener) }()
	s.Cleanup(func() { _ = server.Close() })
	if s.client, err = new(net.Dialer).DialContext(s.Context(), "unix", listener.Addr().String()); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.client.Close() })
	s.replies = bufio.NewReader(s.client)
}

// now returns the site that serves requests.
func (s *testSite) now() *Site { return cmp.Or(s.next.Load(), s.Site) }

// ServeHTTP serves a write that has taken the long way.
func (s *testSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(r.URL.Path, "/")
	body, _ := io.ReadAll(r.Body)
	is := &written{path[2], path[3], string(body)}
	if before := s.before.Load(); before != nil && !(*before)(w, r, is) {
		return
	}
	m, err := broker.NewMessage(is.streamID, []byte(is.body), r.Header.Get("Idempotency-Key"))
	if err == nil {
		err = s.Broker.Publish(r.Context(), is.producer, m, s.Limits)
	}
	if err != nil {
		s.now().Refused(r, err)
		httpjson.ErrorOf(err).Write(w, r)
		return
	}
	if !s.now().Hijack(w, r, is.producer, m) {
		httpjson.Write(w, http.StatusCreated, httpjson.OK)
	}
}

// write writes a message and returns the status of the reply.
func (s *testSite) write(producer string) int {
	s.Helper()
	const body = `"body"`
	if _, err := fmt.Fprintf(s.client, "POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", producer, len(body), body); err != nil {
		s.Fatal(err)
	}
	reply, err := http.ReadResponse(s.replies, nil)
	if err != nil {
		s.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, reply.Body)
	return reply.StatusCode
}

func (s *testSite) writes(n int) {
	s.Helper()
	for range n {
		if status := s.write(s.address.Producer); status != http.StatusCreated {
			s.Fatalf("status %d", status)
		}
	}
}

func (s *testSite) errors() int { return s.log.FilterLevelExact(zapcore.ErrorLevel).Len() }

func TestSomeDirectWritesTakeTheLongWay(t *testing.T) {
	s := newTestSite(t)
	s.writes(300)
	if n := testutil.ToFloat64(s.Samples); n < 20 || n > 250 {
		t.Errorf("%v writes were samples, want about 50", n)
	}
	// A Broker may refuse a sample: package direct leaves that to net/http too.
	for range 30 {
		if status := s.write("main.AAAAAAAAAAAAAAAAAAAAAA"); status != http.StatusNotFound {
			t.Errorf("status %d", status)
		}
		s.writes(8)
	}
	if n := testutil.ToFloat64(s.Mismatches); n > 0 || s.errors() > 0 || s.distrusted.Load() {
		t.Errorf("%v samples differ: %v", n, s.log.All())
	}
}

// differences are what may become of a request in another way than directly.
var differences = map[string]func(http.ResponseWriter, *http.Request, *written) bool{
	"another handler replies": func(w http.ResponseWriter, _ *http.Request, _ *written) bool {
		w.WriteHeader(http.StatusCreated)
		return false
	},
	"another handler adds a header": func(w http.ResponseWriter, _ *http.Request, _ *written) bool {
		w.Header().Set("X-Other", "1")
		return true
	},
	"another message": func(_ http.ResponseWriter, _ *http.Request, is *written) bool { is.body = "2"; return true },
	"another stream":  func(_ http.ResponseWriter, _ *http.Request, is *written) bool { is.streamID = "2"; return true },
	"another idempotency key": func(_ http.ResponseWriter, r *http.Request, _ *written) bool {
		r.Header.Set("Idempotency-Key", "1")
		return true
	},
	"it is refused": func(_ http.ResponseWriter, _ *http.Request, is *written) bool { is.body = "{"; return true },
}

// TestASampleThatDiffersEndsDirectWrites changes what becomes of requests while writes are served directly.
func TestASampleThatDiffersEndsDirectWrites(t *testing.T) {
	for name, before := range differences {
		t.Run(name, func(t *testing.T) {
			s := newTestSite(t)
			s.writes(minWrites)
			s.before.Store(&before)
			for range 4 * s.SampleEvery {
				if testutil.ToFloat64(s.Mismatches) == 0 {
					s.write(s.address.Producer)
				}
			}
			s.before.Store(nil)
			s.writes(2 * minWrites)
			if n := testutil.ToFloat64(s.Count); n > 0 {
				t.Errorf("%v connections are served directly", n)
			}
			if n := testutil.ToFloat64(s.Mismatches); n != 1 || s.errors() != 1 {
				t.Errorf("%v samples differ: %v", n, s.log.All())
			}
		})
	}
}

// TestASampleThatComesToAnotherConfigurationSaysNothing: the listener wrapper hands connections over during a reload. The other
// configuration may make something else of every write.
func TestASampleThatComesToAnotherConfigurationSaysNothing(t *testing.T) {
	for name, before := range differences {
		t.Run(name, func(t *testing.T) {
			s := newTestSite(t)
			s.writes(minWrites)
			next := NewSite(s.Options)
			next.SampleEvery = 1 << 20
			s.before.Store(&before)
			s.next.Store(next)
			for range 4 * s.SampleEvery {
				s.write(s.address.Producer)
			}
			if testutil.ToFloat64(s.Samples) != 0 || testutil.ToFloat64(s.Mismatches) != 0 || s.errors() > 0 {
				t.Errorf("%v samples count, %v differ: %v", testutil.ToFloat64(s.Samples), testutil.ToFloat64(s.Mismatches), s.log.All())
			}
		})
	}
}

// TestASampleAtTheExitSaysNothing: the handlers may reply in another way then.
func TestASampleAtTheExitSaysNothing(t *testing.T) {
	for name, before := range differences {
		t.Run(name, func(t *testing.T) {
			s := newTestSite(t)
			var over atomic.Bool
			s.Over = over.Load
			s.writes(minWrites)
			exits := func(w http.ResponseWriter, r *http.Request, is *written) bool {
				over.Store(true)
				return before(w, r, is)
			}
			s.before.Store(&exits)
			for !over.Load() {
				s.write(s.address.Producer)
			}
			s.write(s.address.Producer) // so that the one before has ended
			if testutil.ToFloat64(s.Samples) != 0 || testutil.ToFloat64(s.Mismatches) != 0 || s.errors() > 0 {
				t.Errorf("%v samples count, %v differ: %v", testutil.ToFloat64(s.Samples), testutil.ToFloat64(s.Mismatches), s.log.All())
			}
		})
	}
}

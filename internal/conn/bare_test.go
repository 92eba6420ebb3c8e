package conn

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/logging" // the log goes to a file
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A probe is a handler that looks at what Caddy gives to handlers.
type probe struct{}

// probed is what a probe has seen.
var probed struct {
	conn net.Conn
	look func(w http.ResponseWriter, r *http.Request)
}

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.probe", New: func() caddy.Module { return new(probe) }}
}

func (probe) Provision(ctx caddy.Context) error {
	ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server).RegisterConnContext(func(ctx context.Context, c net.Conn) context.Context {
		probed.conn = c
		return With(ctx, c)
	})
	return nil
}

func (probe) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	probed.look(w, r)
	return nil
}

// load runs Caddy with a site for the probe, and sends it a request. It returns Caddy's log.
func load(t *testing.T, look func(w http.ResponseWriter, r *http.Request)) (log func() string) {
	t.Helper()
	dir := t.TempDir()
	socket, logFile := filepath.Join(dir, "s"), filepath.Join(dir, "log")
	config := fmt.Sprintf(`{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "file", "filename": %q}}}},
		"apps": {"http": {"servers": {"s": {
			"listen": ["unix/%s"], "protocols": ["h1"], "automatic_https": {"disable": true},
			"routes": [{"handle": [{"handler": "probe"}]}]
		}}}}
	}`, logFile, socket)
	if !json.Valid([]byte(config)) {
		t.Fatal(config)
	}
	probed.look = look
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	response, err := client.Post("http://localhost/", "", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return func() string {
		text, err := os.ReadFile(logFile)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func init() { caddy.RegisterModule(probe{}) }

// TestInternalsAreAsBareGoKnowsThem checks each type of Caddy and net/http that bare.go knows against the versions in
// go.mod. If it fails after an update, look at the type in the new version and correct bare.go. If it passes after one,
// only the versions in bare.go are to be updated.
func TestInternalsAreAsBareGoKnowsThem(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`github.com/caddyserver/caddy/v2 (\S+)`).FindSubmatch(mod)
	if used == nil {
		t.Fatal("go.mod does not name Caddy's version")
	}
	check := func(internal, should string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s should %s: so it was in Caddy %s and Go %s, and this is Caddy %s and %s: look how it is there, and correct bare.go",
				internal, should, caddyVersion, goVersion, used[1], runtime.Version())
		}
	}
	load(t, func(w http.ResponseWriter, r *http.Request) {
		bare := Bare(probed.conn)
		_, isSocket := bare.(*net.UnixConn)
		check(http2Conn, "be around the connections of a site with protocols h1", is(probed.conn, http2Conn))
		check(http2Conn, "have the socket in its field Conn", isSocket)
		check(http2Conn, "be removed by With", Of(r) == bare)
		deadlines := 0
		innermost := w
		for outer, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok; outer, ok = innermost.(interface{ Unwrap() http.ResponseWriter }) {
			if is(innermost, readDeadlineWriter) {
				deadlines++
			}
			innermost = outer.Unwrap()
		}
		check(readDeadlineWriter, "be around the writer once", deadlines == 1)
		check(serverWriter, "be the innermost writer of HTTP/1", is(innermost, serverWriter))
		check(serverWriter, "be bare", IsBare(w, r))
		w.WriteHeader(http.StatusNoContent)
		check(serverWriter, "be reached unchanged", isTransparent(w))
	})
	for internal, changed := range changes {
		check(internal, "be as it was", !changed.Load())
	}
	if runtime.GOOS == "windows" {
		return // its listeners are others
	}
	address, err := caddy.ParseNetworkAddress("tcp/127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := address.Listen(t.Context(), 0, net.ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.(net.Listener).Close()
	_, isSocket := BareListener(l.(net.Listener)).(*net.TCPListener)
	check(countingListener, "be around listeners", is(l, countingListener))
	check(countingListener, "have the socket in its field Listener", isSocket)
}

type (
	knownType   struct{}
	renamedType struct{ http.ResponseWriter }
)

// TestAChangeIsLoggedOnceAndCounted stands in for a version of Caddy that has renamed a type, and for one that has renamed
// a field.
func TestAChangeIsLoggedOnceAndCounted(t *testing.T) {
	const internal = "github.com/caddy-megaphone/megaphone/internal/conn.knownType"
	changes[internal] = new(atomic.Bool)
	t.Cleanup(func() { delete(changes, internal) })
	name := func(short string) string { return short }
	metric := func() (sum float64) {
		for _, c := range Collectors(name) {
			sum += testutil.ToFloat64(c)
		}
		return sum
	}
	if !is(knownType{}, internal) || !is(&knownType{}, internal) || is(http.NoBody, internal) || is(nil, internal) || metric() != 0 {
		t.Error("a change is seen where there is none")
	}
	log := load(t, func(http.ResponseWriter, *http.Request) {
		for range 3 {
			if is(renamedType{}, internal) {
				t.Error("an unknown type passes for the known one")
			}
			if _, ok := inside[net.Conn](knownType{}, internal, "Conn"); ok {
				t.Error("a field is found that is not there")
			}
		}
	})()
	if n := strings.Count(log, `"expected":"`+internal); n != 1 || !strings.Contains(log, `"found":"`+strings.ReplaceAll(internal, "known", "renamed")) {
		t.Errorf("the log has %d warnings:\n%s", n, log)
	}
	if got := metric(); got != 1 {
		t.Errorf("the metric is %v, want 1", got)
	}
}

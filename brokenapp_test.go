package megaphone_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-megaphone/megaphone"
)

func init() {
	caddy.RegisterModule(brokenApp{})
	httpcaddyfile.RegisterGlobalOption("broken", func(d *caddyfile.Dispenser, _ any) (any, error) {
		d.Next()
		d.NextArg()
		return httpcaddyfile.App{Name: "broken", Value: []byte(`{"at":"` + d.Val() + `"}`)}, nil
	})
}

// A brokenApp makes its configuration fail to load.
type brokenApp struct {
	// At is "provision" or "start".
	At string `json:"at"`
}

var errBroken = errors.New("broken on purpose")

func (brokenApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "broken", New: func() caddy.Module { return new(brokenApp) }}
}

func (b *brokenApp) Provision(ctx caddy.Context) error {
	if b.At == "provision" {
		if _, err := ctx.App("megaphone"); err != nil { // provisions Megaphone before this app fails
			return err
		}
		return errBroken
	}
	return nil
}

func (b *brokenApp) Start() error {
	if b.At == "start" {
		duringBrokenStart()
		return errBroken
	}
	return nil
}

func (b *brokenApp) Stop() error { return nil }

// duringBrokenStart is called before a brokenApp fails to start.
var duringBrokenStart = func() {}

// failToStart loads a configuration that fails to start until both cases have happened: Megaphone was started before the
// failure, and it was not. Caddy starts apps in an order that changes each time. In the middle of the load, failToStart
// calls during once for each case.
func (s *server) failToStart(settings string, during func(started bool)) {
	s.Helper()
	seen := map[bool]bool{}
	duringBrokenStart = func() {
		started := megaphone.Started() > 1 // not only the running configuration
		if !seen[started] {
			seen[started] = true
			during(started)
		}
	}
	defer func() { duringBrokenStart = func() {} }()
	for len(seen) < 2 {
		if s.Context().Err() != nil {
			s.Fatalf("Caddy has started its apps in one order only: %v", seen)
		}
		s.failToLoad("broken start\n"+settings, "megaphone")
	}
}

// failedLoads counts the calls of failToLoad.
var failedLoads atomic.Int64

// failToLoad loads a configuration that must fail because of a brokenApp. The configuration gets a Unix socket that no
// other configuration has. Caddy 2.11.9 cannot share such a socket with a configuration that fails to start: to listen
// again on a socket, it copies the listener that was opened last, even if that is closed already while an older one is
// open. That affects the socket of the running configuration. It also affects two failed loads in a row, because Caddy
// does not wait until the listeners of a failed configuration are closed.
func (s *server) failToLoad(settings, site string) {
	s.Helper()
	elsewhere := *s
	elsewhere.socket += fmt.Sprint(failedLoads.Add(1))
	if err := elsewhere.load(settings, site); err == nil || !strings.Contains(err.Error(), errBroken.Error()) {
		s.Fatalf("load: %v", err)
	}
}

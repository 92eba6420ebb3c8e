// Command server is Caddy with Megaphone and the handler `bench_wait`, which is the least that a reader can cost under
// Caddy: it sends its header and waits for the client to go.
package main

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-megaphone/megaphone"
)

func init() {
	caddy.RegisterModule(Wait{})
	httpcaddyfile.RegisterHandlerDirective("bench_wait", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return Wait{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("bench_wait", httpcaddyfile.Before, "respond")
}

// Wait sends a header and waits for the client to go.
type Wait struct{}

// CaddyModule returns the Caddy module information.
func (Wait) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_wait", New: func() caddy.Module { return new(Wait) }}
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (Wait) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	<-r.Context().Done()
	return nil
}

func main() {
	caddycmd.Main()
}

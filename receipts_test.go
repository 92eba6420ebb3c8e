package megaphone_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone"
)

func init() {
	caddy.RegisterModule(tellConn{})
	httpcaddyfile.RegisterHandlerDirective("tell_conn", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return tellConn{}, nil
	})
}

// A tellConn answers with the type of the connection that Megaphone knows.
type tellConn struct{}

func (tellConn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.tell_conn", New: func() caddy.Module { return new(tellConn) }}
}

func (tellConn) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	_, err := fmt.Fprintf(w, "%T", megaphone.ConnOf(r))
	return err
}

func TestTheConnectionIsKnownWhateverTheProtocols(t *testing.T) {
	for _, protocols := range []string{"h1", "h1 h2", "h1 h2c"} {
		s := serve(t, "servers {\nprotocols "+protocols+"\n}", "route {\nmegaphone\ntell_conn\n}")
		if r := s.get("/other"); r.body != "*net.UnixConn" {
			t.Errorf("with protocols %s, the connection is a %s", protocols, r.body)
		}
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

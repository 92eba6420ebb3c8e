package megaphone_test

import (
	"fmt"
	"net/http"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/internal/handover"
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
	conn := megaphone.ConnOf(r)
	_, err := fmt.Fprintf(w, "%T", conn)
	if c, ok := conn.(*handover.Conn); ok {
		_, err = fmt.Fprintf(w, ", begun: %d", reflect.ValueOf(c).Elem().FieldByName("begun").FieldByName("v").Uint())
	}
	return err
}

// The listener wrapper relies on Caddy to ask the context of the connection for something (see handover.Conn.Context).
func TestAConnectionKnowsThatARequestHasBegun(t *testing.T) {
	s := serve(t, "servers {\nlistener_wrappers {\nmegaphone\n}\n}", "route {\nmegaphone\ntell_conn\n}")
	for range 2 {
		if r := s.get("/other"); r.body != "*handover.Conn, begun: 1" {
			t.Error(r.body)
		}
	}
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

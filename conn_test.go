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
	caddy.RegisterModule(connType{})
	httpcaddyfile.RegisterHandlerDirective("conn_type", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return connType{}, nil
	})
}

// A connType is a handler that replies with the type of the request's connection, as Megaphone knows it. For a
// handover.Conn, it adds whether a request has begun: 1 or 0.
type connType struct{}

func (connType) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.conn_type", New: func() caddy.Module { return new(connType) }}
}

func (connType) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	conn := megaphone.ConnOf(r)
	_, err := fmt.Fprintf(w, "%T", conn)
	if c, ok := conn.(*handover.Conn); ok {
		_, err = fmt.Fprintf(w, ", begun: %d", reflect.ValueOf(c).Elem().FieldByName("begun").FieldByName("v").Uint())
	}
	return err
}

// TestAConnectionKnowsThatARequestHasBegun checks that Caddy asks the context of the connection for a value with each
// request. The listener wrapper relies on that (see handover.Conn.Context).
func TestAConnectionKnowsThatARequestHasBegun(t *testing.T) {
	s := serve(t, "servers {\nlistener_wrappers {\nmegaphone\n}\n}", "route {\nmegaphone\nconn_type\n}")
	for range 2 {
		if r := s.get("/other"); r.body != "*handover.Conn, begun: 1" {
			t.Error(r.body)
		}
	}
}

func TestTheConnectionIsKnownWithAnyProtocols(t *testing.T) {
	for _, protocols := range []string{"h1", "h1 h2", "h1 h2c"} {
		s := serve(t, "servers {\nprotocols "+protocols+"\n}", "route {\nmegaphone\nconn_type\n}")
		if r := s.get("/other"); r.body != "*net.UnixConn" {
			t.Errorf("protocols %s: the connection is %s, want *net.UnixConn", protocols, r.body)
		}
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

package megaphone

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/handover"
)

// A clientConn is a connection of HTTP/1 or 2, as its requests know it.
type clientConn struct {
	net.Conn

	// Of HTTP/1, whose requests come one after the other: see takeOverWrites.
	writes   int         // how many alike have come in a row
	header   http.Header // of the last of them
	patience int         // how many there must be
	stays    bool        // it cannot be taken over
}

// connKey is under what the context of a connection has the clientConn.
type connKey struct{}

// withConn lets the requests on a connection know it. Every handler of a server asks for that.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	bare := bareConn(conn)
	return context.WithValue(ctx, connKey{}, &clientConn{
		Conn: bare, patience: cmp.Or(handover.Note(bare), minWrites),
	})
}

// clientConnOf returns the connection of a request of HTTP/1 or 2, or nil if it is not known.
func clientConnOf(r *http.Request) *clientConn {
	conn, _ := r.Context().Value(connKey{}).(*clientConn)
	return conn
}

// connOf returns the same as it was accepted.
func connOf(r *http.Request) net.Conn {
	if conn := clientConnOf(r); conn != nil {
		return conn.Conn
	}
	return nil
}

// serverOf returns Caddy's server of a request, or nil if it is not known.
func serverOf(r *http.Request) *caddyhttp.Server {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server
}

// bareConn returns the connection that Caddy has wrapped to look for HTTP/2, as it does without TLS where a server has
// only one of `protocols h1` and `h2`. Its type has no exported name, and no method that leads on; should it change, a
// test tells.
func bareConn(conn net.Conn) net.Conn {
	if reflect.TypeOf(conn).String() == "*caddyhttp.http2Conn" {
		if inner, ok := reflect.TypeAssert[net.Conn](reflect.ValueOf(conn).Elem().FieldByName("Conn")); ok {
			return inner
		}
	}
	return conn
}

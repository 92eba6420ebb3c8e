package conn

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/handover"
)

// A Client is a connection of HTTP/1 or 2, as its requests know it.
type Client struct {
	net.Conn

	// Of HTTP/1, whose requests come one after the other: see takeOverWrites.
	Writes   int         // how many alike have come in a row
	Header   http.Header // of the last of them
	Patience int         // how many there must be; 0: the default
	Stays    bool        // it cannot be taken over
}

// connKey is under what the context of a connection has the clientConn.
type connKey struct{}

// With lets the requests on a connection know it. Every handler of a server asks for that.
func With(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	bare := Bare(conn)
	return context.WithValue(ctx, connKey{}, &Client{
		Conn: bare, Patience: handover.Note(bare),
	})
}

// ClientOf returns the connection of a request of HTTP/1 or 2, or nil if it is not known.
func ClientOf(r *http.Request) *Client {
	conn, _ := r.Context().Value(connKey{}).(*Client)
	return conn
}

// Of returns the same as it was accepted.
func Of(r *http.Request) net.Conn {
	if conn := ClientOf(r); conn != nil {
		return conn.Conn
	}
	return nil
}

// ServerOf returns Caddy's server of a request, or nil if it is not known.
func ServerOf(r *http.Request) *caddyhttp.Server {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server
}

// Bare returns the connection that Caddy has wrapped to look for HTTP/2, as it does without TLS where a server has
// only one of `protocols h1` and `h2`. Its type has no exported name, and no method that leads on; should it change, a
// test tells.
func Bare(conn net.Conn) net.Conn {
	if reflect.TypeOf(conn).String() == "*caddyhttp.http2Conn" {
		if inner, ok := reflect.TypeAssert[net.Conn](reflect.ValueOf(conn).Elem().FieldByName("Conn")); ok {
			return inner
		}
	}
	return conn
}

// IsBare reports whether there is nothing around net/http's own writer but what sets Caddy's deadlines, and these are for
// single writes only.
func IsBare(w http.ResponseWriter, r *http.Request) bool {
	server := ServerOf(r)
	if server == nil || server.WriteTimeout > 0 || server.WriteMinRate > 0 {
		return false
	}
	for {
		switch outer := w.(type) {
		case *caddyhttp.IdleTimeoutWriter:
			if outer.Deadline.MinRate > 0 || !outer.Deadline.HardDeadline.IsZero() { // by another handler
				return false
			}
			w = outer.ResponseWriter
		case interface{ Unwrap() http.ResponseWriter }:
			// The type has no exported name. Should it get another one, a test tells.
			if reflect.TypeOf(w).String() != "*caddyhttp.readDeadlineWriter" {
				return false
			}
			w = outer.Unwrap()
		default:
			return reflect.TypeOf(w).String() == "*http.response"
		}
	}
}

// Innermost returns the server's own writer, without what was put around it.
func Innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapped.Unwrap()
	}
}

// WriteTimeout returns how long the client of a request may take nothing: the given limit, or that of Caddy's server if it
// is shorter.
func WriteTimeout(r *http.Request, limit time.Duration) time.Duration {
	if server := ServerOf(r); server != nil && server.WriteIdleTimeout > 0 {
		return min(limit, time.Duration(server.WriteIdleTimeout))
	}
	return limit
}

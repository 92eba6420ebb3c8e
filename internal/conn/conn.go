// Package conn is for what requests need to know of their connection, and of what Caddy and net/http have put around it.
// It also reads the bodies of requests, up to their end where that matters. All reflection into Caddy and net/http stands
// in bare.go. The package knows nothing of channels and endpoints.
package conn

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A Client is what all requests on a connection of HTTP/1 or HTTP/2 share.
type Client struct {
	// Conn is the connection that the server accepted, as [Bare] returns it.
	net.Conn

	// The fields below are for package direct, which decides by them when to hijack a connection of HTTP/1. The requests
	// of such a connection come one after the other. So only the handler of a request may use the fields, until it
	// returns.

	// Writes is how many writes in a row had headers like Header.
	Writes int
	// Header is the header of the last write. It is shared with the request: do not change it.
	Header http.Header
	// Changes is how many writes had other headers than the one before.
	Changes int
	// Note is what package direct has noted of the connection when it gave the connection back: see handover.GiveBack.
	Note any
	// NeverHijack says that the connection can never be hijacked.
	NeverHijack bool
}

// connKey is the key of the Client in the context of a connection.
type connKey struct{}

// With returns a context for the requests on a connection, from which [Of] and [ClientOf] know the connection. It is for
// [http.Server.ConnContext]. If ctx comes from With already, With returns ctx: every handler of a server registers With.
func With(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	client := &Client{Conn: Bare(conn)}
	if givenBack, ok := client.Conn.(interface{ Note() any }); ok {
		client.Note = givenBack.Note()
	}
	return context.WithValue(ctx, connKey{}, client)
}

// ClientOf returns what the requests on the connection of r share. It returns nil if the connection is unknown: over
// HTTP/3, and on a server without [With].
func ClientOf(r *http.Request) *Client {
	conn, _ := r.Context().Value(connKey{}).(*Client)
	return conn
}

// Of returns the connection of a request as the server accepted it, or nil if [ClientOf] returns nil. The connection has
// TLS if the site has. On HTTP/2, other requests use it too.
func Of(r *http.Request) net.Conn {
	if conn := ClientOf(r); conn != nil {
		return conn.Conn
	}
	return nil
}

// ServerOf returns Caddy's server of a request, or nil if the request does not come from Caddy.
func ServerOf(r *http.Request) *caddyhttp.Server {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server
}

// WriteTimeout returns how long the client of a request may take nothing of what it is sent: limit, or write_idle of
// Caddy's server if that is set and shorter.
func WriteTimeout(r *http.Request, limit time.Duration) time.Duration {
	if server := ServerOf(r); server != nil && server.WriteIdleTimeout > 0 {
		return min(limit, time.Duration(server.WriteIdleTimeout))
	}
	return limit
}

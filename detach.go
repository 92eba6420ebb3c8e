package megaphone

import (
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// detach makes a read over HTTP/1.1 independent of its handler, which may return then, and reports whether it did. That
// saves most of the memory of a reader that waits (docs/performance.md). It is done only where nobody is worse off:
// nothing may stand between the handler and the server that counts or changes the response, such as the access log, and
// Caddy must not be set to limit how long a response takes. When the client is gone, gone is called.
func detach(t transport.Transport, w http.ResponseWriter, r *http.Request, gone func()) bool {
	d, ok := t.(transport.Detachable)
	if !ok || !isBare(w, r) {
		return false
	}
	conn := connOf(r)
	return conn != nil && d.Detach(r, conn, gone)
}

// isBare reports whether there is nothing around net/http's own writer but what sets Caddy's deadlines, and these are for
// single writes only.
func isBare(w http.ResponseWriter, r *http.Request) bool {
	server := serverOf(r)
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

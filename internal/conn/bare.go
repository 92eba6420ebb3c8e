package conn

import (
	"net"
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The names of types that Caddy and net/http do not export. If one changes, tests of detached reads and direct writes
// fail, since these then never happen.
const (
	http2Conn          = "*caddyhttp.http2Conn"
	readDeadlineWriter = "*caddyhttp.readDeadlineWriter"
	serverWriter       = "*http.response"
)

// isA reports whether the type of a value has a name.
func isA(value any, name string) bool { return reflect.TypeOf(value).String() == name }

// Bare returns the connection inside the wrapper that Caddy puts around connections to look for HTTP/2. Caddy does so
// without TLS, where a server has only one of `protocols h1` and `h2`. The wrapper has no method that returns the
// connection inside. Bare returns any other connection as it is.
func Bare(conn net.Conn) net.Conn {
	if isA(conn, http2Conn) {
		if inner, ok := reflect.TypeAssert[net.Conn](reflect.ValueOf(conn).Elem().FieldByName("Conn")); ok {
			return inner
		}
	}
	return conn
}

// IsBare reports whether w is the writer of net/http for HTTP/1, with nothing around it except the writers that set
// Caddy's deadlines, and with deadlines for single writes only. So no access log or handler counts or changes the
// response, and Caddy does not limit how long it takes as a whole.
func IsBare(w http.ResponseWriter, r *http.Request) bool {
	server := ServerOf(r)
	if server == nil || server.WriteTimeout > 0 || server.WriteMinRate > 0 {
		return false
	}
	for {
		switch outer := w.(type) {
		case *caddyhttp.IdleTimeoutWriter:
			if outer.Deadline.MinRate > 0 || !outer.Deadline.HardDeadline.IsZero() { // another handler has set these
				return false
			}
			w = outer.ResponseWriter
		case interface{ Unwrap() http.ResponseWriter }:
			if !isA(w, readDeadlineWriter) {
				return false
			}
			w = outer.Unwrap()
		default:
			return isA(w, serverWriter)
		}
	}
}

// Innermost returns the server's own writer, without the writers that Caddy and other handlers have put around it.
func Innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapped.Unwrap()
	}
}

// isTransparent reports whether what a handler has written to w reaches net/http unchanged, and at once. It is for writers
// to which something was written.
func isTransparent(w http.ResponseWriter) bool {
	for {
		switch outer := w.(type) {
		case *caddyhttp.IdleTimeoutWriter:
			w = outer.ResponseWriter
		case caddyhttp.ResponseRecorder: // for the access log; other handlers buffer in it
			inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
			if !ok || outer.Buffered() {
				return false
			}
			w = inner.Unwrap()
		case interface{ Unwrap() http.ResponseWriter }:
			if !isA(w, readDeadlineWriter) {
				return false
			}
			w = outer.Unwrap()
		default:
			return isA(w, serverWriter)
		}
	}
}

package conn

import (
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// All that Megaphone knows of types that Caddy and net/http do not export is in this file, and nowhere else. It was last
// true for the versions below. If another version changes something, Megaphone does without: writes go through net/http,
// reads keep their handlers, connections close at a reload. [noteChange] then says so.
const (
	caddyVersion = "v2.11.9"
	goVersion    = "1.26"
)

// The types.
const (
	// countingListener counts the users of an address. It has a field Listener with the socket.
	countingListener = "github.com/caddyserver/caddy/v2.deleteListener"
	// http2Conn looks for HTTP/2 where that must not be. It is around connections without TLS where a server has only one of
	// `protocols h1` and `h2`. It has a field Conn with the connection inside.
	http2Conn = "github.com/caddyserver/caddy/v2/modules/caddyhttp.http2Conn"
	// readDeadlineWriter passes everything on, except deadlines for reading the body.
	readDeadlineWriter = "github.com/caddyserver/caddy/v2/modules/caddyhttp.readDeadlineWriter"
	// serverWriter is net/http's own writer for HTTP/1.
	serverWriter = "net/http.response"
)

// internals are all of them.
var internals = []string{countingListener, http2Conn, readDeadlineWriter, serverWriter}

// otherTypes are the other types of their packages that may stand where those above stand. We leave them alone.
var otherTypes = []string{
	"github.com/caddyserver/caddy/v2.fakeCloseListener",
	"github.com/caddyserver/caddy/v2.sharedListener",
	"github.com/caddyserver/caddy/v2.unixListener",
	"github.com/caddyserver/caddy/v2/modules/caddyhttp.IdleTimeoutWriter",
	"github.com/caddyserver/caddy/v2/modules/caddyhttp.ResponseWriterWrapper",
	"github.com/caddyserver/caddy/v2/modules/caddyhttp.http2StateConn",
	"github.com/caddyserver/caddy/v2/modules/caddyhttp.responseRecorder",
	"github.com/caddyserver/caddy/v2/modules/caddyhttp.tlsStateConn",
	"net/http.http2responseWriter",
	"net/http.timeoutWriter",
}

// is reports whether a value, or what it points to, has one of the types above. A type of the same package that nobody
// knows is a change.
func is(value any, internal string) bool {
	t := reflect.TypeOf(value)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.PkgPath() != internal[:strings.LastIndexByte(internal, '.')] {
		return false
	}
	name := t.PkgPath() + "." + t.Name()
	if name == internal {
		return true
	}
	if !slices.Contains(internals, name) && !slices.Contains(otherTypes, name) {
		noteChange(internal, name)
	}
	return false
}

// inside returns what a value of one of the types above has in a field.
func inside[T any](value any, internal, field string) (inner T, ok bool) {
	v := reflect.Indirect(reflect.ValueOf(value))
	if v.Kind() == reflect.Struct {
		if f := v.FieldByName(field); f.IsValid() {
			if inner, ok = reflect.TypeAssert[T](f); ok {
				return inner, true
			}
		}
	}
	noteChange(internal, "no field "+field)
	return inner, false
}

// BareListener returns the socket inside the wrapper that Caddy puts around listeners to count the users of their address.
// It returns any other listener as it is.
func BareListener(l net.Listener) net.Listener {
	if is(l, countingListener) {
		if inner, ok := inside[net.Listener](l, countingListener, "Listener"); ok {
			return inner
		}
	}
	return l
}

// Bare returns the connection inside the wrapper that Caddy puts around connections to look for HTTP/2. It returns any
// other connection as it is.
func Bare(conn net.Conn) net.Conn {
	if is(conn, http2Conn) {
		if inner, ok := inside[net.Conn](conn, http2Conn, "Conn"); ok {
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
	return passesOn(w, func(outer http.ResponseWriter) bool {
		idle, ok := outer.(*caddyhttp.IdleTimeoutWriter)
		return ok && idle.Deadline.MinRate == 0 && idle.Deadline.HardDeadline.IsZero() // another handler may have set these
	})
}

// isTransparent reports whether what a handler has written to w reaches net/http unchanged, and at once. It is for writers
// of HTTP/1 to which something was written.
func isTransparent(w http.ResponseWriter) bool {
	return passesOn(w, func(outer http.ResponseWriter) bool {
		recorder, ok := outer.(caddyhttp.ResponseRecorder) // for the access log; other handlers buffer in it
		if !ok {
			_, ok = outer.(*caddyhttp.IdleTimeoutWriter)
		}
		return ok && (recorder == nil || !recorder.Buffered())
	})
}

// passesOn reports whether w is the writer of net/http for HTTP/1, with nothing around it except Caddy's writer for
// deadlines of reading, and writers that allowed accepts.
func passesOn(w http.ResponseWriter, allowed func(http.ResponseWriter) bool) bool {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return is(w, serverWriter)
		}
		if !allowed(w) && !is(w, readDeadlineWriter) {
			return false
		}
		w = outer.Unwrap()
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

package megaphone

import (
	"net/http"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// detach makes a read over HTTP/1.1 independent of its handler, which may return then, and reports whether it did. That
// saves most of the memory of a reader that waits (docs/performance.md). It is done only where nobody is worse off:
// nothing may stand between the handler and the server that counts or changes the response, such as the access log, and
// Caddy must not be set to limit how long a response takes. When the client is gone, gone is called.
func detach(t transport.Transport, w http.ResponseWriter, r *http.Request, gone func()) bool {
	d, ok := t.(transport.Detachable)
	if !ok || !conn.IsBare(w, r) {
		return false
	}
	c := conn.Of(r)
	return c != nil && d.Detach(r, c, gone)
}

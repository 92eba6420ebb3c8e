package delivery

import (
	"net/http"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// Detach makes a read over HTTP/1.1 independent of its handler, which may return then, and reports whether it did. That
// saves most of the memory of a reader that waits (docs/performance.md). It happens only where nobody is worse off: no
// writer between the handler and the server may count or change the response, as an access log does, and Caddy must not
// limit how long a response takes. When the client is gone, the read goes on and finds out.
func (f *Delivery) Detach(w http.ResponseWriter, r *http.Request) bool {
	t, ok := f.transport.(transport.Detachable)
	if !ok || !conn.IsBare(w, r) {
		return false
	}
	c := conn.Of(r)
	return c != nil && t.Detach(r, c, f.wake)
}

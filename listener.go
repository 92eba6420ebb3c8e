package megaphone

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/handover"
)

func init() {
	caddy.RegisterModule(ListenerWrapper{})
}

// ListenerWrapper lets no request fail when the configuration is reloaded, where clients use HTTP/1.1 without TLS, as
// backends often do. Without it, a server whose configuration is replaced closes connections that clients are about to
// use, or whose request it has just read; clients have to send such requests again, and some do not. With it, those
// connections go on under the new configuration, if that listens at the same address and has this wrapper too. On Linux
// the same holds for connections that nobody has accepted yet, with TLS or without.
//
// Put it first in the list of wrappers, before `tls`. It concerns all requests to a server, not only those for
// `megaphone`. Connections with TLS are otherwise left as they are: over HTTP/2 and HTTP/3, clients are told in time
// to open another.
type ListenerWrapper struct {
	server *caddyhttp.Server
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.megaphone", New: func() caddy.Module { return new(ListenerWrapper) }}
}

// Provision implements [caddy.Provisioner].
func (w *ListenerWrapper) Provision(ctx caddy.Context) error {
	w.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if w.server != nil {
		w.server.RegisterConnState(func(c net.Conn, state http.ConnState) {
			if h, ok := conn.Bare(c).(*handover.Conn); ok {
				h.Changed(state)
			}
		})
		w.server.RegisterConnContext(func(ctx context.Context, c net.Conn) context.Context {
			if h, ok := conn.Bare(c).(*handover.Conn); ok {
				return h.Context(ctx)
			}
			return ctx
		})
	}
	return nil
}

// WrapListener implements [caddy.ListenerWrapper].
func (w *ListenerWrapper) WrapListener(l net.Listener) net.Listener {
	if w.server == nil {
		return l
	}
	return handover.Listen(l, handover.Settings{
		Idle:   time.Duration(w.server.IdleTimeout),
		Header: time.Duration(cmp.Or(w.server.ReadHeaderTimeout, w.server.ReadTimeout)),
		KeepAlive: net.KeepAliveConfig{ // as in the http app
			Enable:   w.server.KeepAliveInterval >= 0,
			Interval: time.Duration(w.server.KeepAliveInterval),
			Idle:     time.Duration(w.server.KeepAliveIdle),
			Count:    w.server.KeepAliveCount,
		},
	})
}

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax, in the global options:
//
//	servers {
//		listener_wrappers {
//			megaphone
//			tls
//		}
//	}
func (w *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the wrapper's name
	if d.NextArg() {
		return d.Errf("the listener wrapper 'megaphone' takes no value, but got %q: remove it", d.Val())
	}
	for d.NextBlock(0) {
		return d.Errf("the listener wrapper 'megaphone' has no option %q: remove the block", d.Val())
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
	_ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
)

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
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/handover"
)

func init() {
	caddy.RegisterModule(ListenerWrapper{})
}

// ListenerWrapper keeps HTTP/1.1 connections without TLS open when you reload the configuration, so no request fails.
// Backends often use such connections.
//
// Without the wrapper, a reload closes connections that a client is about to use, and connections whose request the
// server has just read. The client has to send that request again, and some clients do not. With the wrapper, these
// connections continue under the new configuration. For that, the new configuration must listen at the same address and
// have this wrapper too. On Linux, connections that the server has not accepted yet continue as well, with TLS or
// without.
//
// Put the wrapper first in the list of wrappers, before `tls`. It applies to all requests to a server, not only to
// those for `megaphone`. It does not change connections with TLS that the server has accepted: HTTP/2 and HTTP/3 tell
// clients in time to open another connection.
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
		handover.Announce()
		w.server.RegisterConnState(func(c net.Conn, state http.ConnState) {
			defer guard.Recover(guard.Connection, func() { _ = c.Close() })
			if h, ok := conn.Bare(c).(*handover.Conn); ok {
				h.Changed(state)
			}
		})
		w.server.RegisterConnContext(guardHook(func(ctx context.Context, c net.Conn) context.Context {
			if h, ok := conn.Bare(c).(*handover.Conn); ok {
				return h.Context(ctx)
			}
			return ctx
		}))
	}
	return nil
}

// guardHook guards a function for [http.Server.ConnContext]: net/http calls these in the goroutine that accepts connections,
// and does not recover there.
func guardHook(hook func(context.Context, net.Conn) context.Context) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) (with context.Context) {
		defer guard.Recover(guard.Connection, func() {
			with = ctx // net/http panics without a context
			_ = c.Close()
		})
		return hook(ctx, c)
	}
}

// WrapListener implements [caddy.ListenerWrapper]. Outside an HTTP server it returns the listener unchanged.
func (w *ListenerWrapper) WrapListener(l net.Listener) net.Listener {
	if w.server == nil {
		return l
	}
	return handover.Listen(l, handover.Settings{
		Bare:   conn.BareListener(l),
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

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Wait{})
	caddy.RegisterModule(new(Relay))
	register("bench_wait", func() caddyhttp.MiddlewareHandler { return Wait{} })
	register("bench_relay", func() caddyhttp.MiddlewareHandler { return new(Relay) })
}

func register(directive string, handler func() caddyhttp.MiddlewareHandler) {
	httpcaddyfile.RegisterHandlerDirective(directive, func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return handler(), nil
	})
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.Before, "respond")
}

// Wait shows the least that a waiting reader costs. It sends a header and waits until the client leaves.
type Wait struct{}

// CaddyModule returns the Caddy module information.
func (Wait) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_wait", New: func() caddy.Module { return new(Wait) }}
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (Wait) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	<-r.Context().Done()
	return nil
}

// Relay shows the least that a delivered message costs. It writes the body of a POST right to the connection of the GET
// for the same path. It has no queue, no check, no envelope, and no time limit.
type Relay struct {
	readers sync.Map // from path to net.Conn
}

// CaddyModule returns the Caddy module information.
func (*Relay) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_relay", New: func() caddy.Module { return new(Relay) }}
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Relay) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.Method == http.MethodGet {
		w.WriteHeader(http.StatusOK)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			h.readers.Store(r.URL.Path, conn)
		}
		return err
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return err
	}
	reader, ok := h.readers.Load(r.URL.Path)
	if !ok {
		return caddyhttp.Error(http.StatusNotFound, nil)
	}
	if _, err := reader.(net.Conn).Write(fmt.Appendf(nil, "%x\r\n%s\r\n", len(body), body)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

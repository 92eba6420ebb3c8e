// Package obstacle tells the log, once for each site, that requests bypass net/http, or what keeps them there. It knows
// what servers and connections are in the way of that. It knows nothing of channels.
package obstacle

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/handover"
)

// A Reason is what keeps a request with net/http, in words for an operator. The empty Reason means that nothing does.
type Reason string

// The reasons that concern every request. Other packages have reasons of their own. A Reason is a constant: the log keeps
// each that it has seen.
const (
	Version      Reason = "the request came over HTTP/2 or HTTP/3, which share a connection between requests"
	TLS          Reason = "the connection uses TLS"
	WriteTimeout Reason = "servers { timeouts { write } } or a minimum rate limits how long a response takes"
	Writer       Reason = "an access log, Caddy's global option metrics or another handler counts or changes the response"
	Wrapped      Reason = "another module has wrapped the connection, or the server is unknown"
	// OldVersion and Body are the reasons of Log.Try only.
	OldVersion Reason = "the request came over HTTP/1.0: nginx needs proxy_http_version 1.1"
	Body       Reason = "the request has a body"
	// Fault is for what should not happen, such as a version of Caddy that this module does not know.
	Fault Reason = "the connection could not be hijacked"
)

// Of returns what keeps a request with net/http, and more about it for the log, or "".
func Of(w http.ResponseWriter, r *http.Request) (reason Reason, detail string) {
	server, c := conn.ServerOf(r), conn.Of(r)
	switch {
	case r.ProtoMajor != 1:
		return Version, r.Proto
	case server != nil && (server.WriteTimeout > 0 || server.WriteMinRate > 0):
		return WriteTimeout, ""
	case server == nil || c == nil:
		return Wrapped, fmt.Sprintf("%T", c)
	case !conn.IsBare(w, r):
		return Writer, fmt.Sprintf("%T", w)
	case r.TLS != nil:
		return TLS, ""
	case !handover.IsSocket(c):
		return Wrapped, fmt.Sprintf("%T", c)
	}
	return "", ""
}

// A Log tells the log of one kind of requests to one site. Any number of goroutines may use it.
type Log struct {
	logger *zap.Logger
	what   string
	passed atomic.Bool
	kept   sync.Map // of Reason
}

// NewLog returns a Log. what names the requests, such as "writes".
func NewLog(logger *zap.Logger, what string) *Log { return &Log{logger: logger, what: what} }

// Try calls bypass, which lets a request bypass net/http if nothing is in the way, and returns what bypass returns. It logs
// that as Bypassed and Kept do. With a nil Log it returns false at once.
func (l *Log) Try(w http.ResponseWriter, r *http.Request, bypass func() bool) bool {
	if l == nil {
		return false
	}
	if bypass() {
		l.Bypassed(r)
		return true
	}
	reason, detail := Of(w, r)
	switch {
	case reason != "":
	case !r.ProtoAtLeast(1, 1):
		reason = OldVersion
	case r.ContentLength != 0:
		reason = Body
	default:
		reason = Fault
	}
	l.Kept(r, reason, detail)
	return false
}

// Bypassed logs, at the first call, that a request has bypassed net/http.
func (l *Log) Bypassed(r *http.Request) {
	if l.passed.Load() || !l.passed.CompareAndSwap(false, true) {
		return
	}
	c := conn.Of(r)
	l.logger.Info(l.what+" bypass net/http from now on where nothing is in the way", zap.String("host", r.Host),
		zap.Bool("connections_survive_reload", c != nil && handover.Outlives(c)))
}

// Kept logs, at the first call for each reason, what has kept a request with net/http.
func (l *Log) Kept(r *http.Request, reason Reason, detail string) {
	if _, ok := l.kept.Load(reason); ok {
		return
	}
	if _, ok := l.kept.LoadOrStore(reason, struct{}{}); ok {
		return
	}
	fields := []zap.Field{zap.String("host", r.Host), zap.String("reason", string(reason))}
	if detail != "" {
		fields = append(fields, zap.String("detail", detail))
	}
	l.logger.Info(l.what+" stay with net/http, where they cost more", fields...)
}

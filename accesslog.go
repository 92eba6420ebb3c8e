package megaphone

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/metrics"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// loadedLogger returns the logger of the loaded configuration. Code that outlives its own configuration must use it,
// because the outputs of an unloaded configuration may be closed. If no configuration is loaded any more, as when the
// process exits, loadedLogger returns last.
func loadedLogger(last *zap.Logger) *zap.Logger {
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		return ctx.Logger(new(App))
	}
	return last
}

// reportPanic counts and logs a panic that was recovered outside net/http. Like net/http, it takes [http.ErrAbortHandler]
// for a way to end something, not for a fault.
func reportPanic(place guard.Place, v any, stack []byte) {
	if v == http.ErrAbortHandler { //nolint:errorlint // as net/http compares
		return
	}
	metrics.CountPanic(place)
	loadedLogger(caddy.Log()).Error("a panic was recovered",
		zap.Stringer("place", place), zap.String("panic", fmt.Sprint(v)), zap.ByteString("stack", stack))
}

// countPanic counts a panic of a request's handler, which net/http recovers and logs. Defer it.
func countPanic() {
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler { //nolint:errorlint // as net/http compares
			metrics.CountPanic(guard.Request)
		}
		panic(v)
	}
}

// An accessLogEntry is what a request adds to the access log, as the object "megaphone". Other handlers see the same
// values as placeholders {http.megaphone.*}. Only the request's goroutine may use an entry.
type accessLogEntry struct {
	endpoint  endpoint
	address   string // of a write or a read
	transport string // of a read
	messages  int    // how many messages were accepted, or sent
	resumed   broker.Resume
	endedBy   string // why a read ended
	code      string // of the error reply
}

// newAccessLogEntry begins a request's entry, and adds it to the access log and the placeholders.
func newAccessLogEntry(r *http.Request, t target) *accessLogEntry {
	entry := &accessLogEntry{endpoint: t.endpoint, address: t.address}
	if fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		fields.Add(zap.Object("megaphone", entry))
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(entry.placeholder)
	}
	return entry
}

// channel returns the part of the channel's address that may be logged, or "" without an address.
func (entry *accessLogEntry) channel() string {
	if entry.address == "" {
		return ""
	}
	return broker.RedactAddress(entry.address)
}

// ended sets why the read ended.
func (entry *accessLogEntry) ended(why transport.Reason) { entry.endedBy = why.String() }

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (entry *accessLogEntry) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("endpoint", entry.endpoint.String())
	enc.AddInt("messages", entry.messages)
	for _, field := range []struct{ name, value string }{
		{"channel", entry.channel()},
		{"transport", entry.transport},
		{"resumed", string(entry.resumed)},
		{"ended_by", entry.endedBy},
		{"error", entry.code},
	} {
		if field.value != "" {
			enc.AddString(field.name, field.value)
		}
	}
	return nil
}

// placeholder is a [caddy.ReplacerFunc]. It returns the values of the placeholders {http.megaphone.*}.
func (entry *accessLogEntry) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.megaphone.")
	if !ok {
		return nil, false
	}
	switch name {
	case "endpoint":
		return entry.endpoint.String(), true
	case "channel":
		return entry.channel(), true
	case "transport":
		return entry.transport, true
	case "messages":
		return entry.messages, true
	case "resumed":
		return string(entry.resumed), true
	case "ended_by":
		return entry.endedBy, true
	case "error":
		return entry.code, true
	}
	return nil, false
}

package megaphone

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// loadedLogger is the logger of the configuration that is loaded, for what outlives the one that it began in: the outputs
// of a configuration that is unloaded may be closed. When none is loaded any more, as at the exit of the process, it is
// that of the last one.
func loadedLogger(last *zap.Logger) *zap.Logger {
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		return ctx.Logger(new(App))
	}
	return last
}

// A record is what the access log is told of a request, as the object "megaphone", and other handlers by
// placeholders {http.megaphone.*}. It is for the request's goroutine.
type record struct {
	endpoint  endpoint
	address   string // of write and read
	transport string // of a read
	messages  int    // that were accepted, or sent
	resumed   broker.Resume
	endedBy   string // why a read ended
	code      string // of the error that was the answer
}

// newRecord begins a request's record.
func newRecord(r *http.Request, t target) *record {
	rec := &record{endpoint: t.endpoint, address: t.address}
	if fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		fields.Add(zap.Object("megaphone", rec))
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(rec.placeholder)
	}
	return rec
}

// channel is what may be logged of the channel's address.
func (rec *record) channel() string {
	if rec.address == "" {
		return ""
	}
	return broker.RedactAddress(rec.address)
}

// ended notes why a read is over.
func (rec *record) ended(why transport.Reason) { rec.endedBy = why.String() }

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (rec *record) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("endpoint", rec.endpoint.String())
	enc.AddInt("messages", rec.messages)
	for _, field := range []struct{ name, value string }{
		{"channel", rec.channel()},
		{"transport", rec.transport},
		{"resumed", string(rec.resumed)},
		{"ended_by", rec.endedBy},
		{"error", rec.code},
	} {
		if field.value != "" {
			enc.AddString(field.name, field.value)
		}
	}
	return nil
}

// placeholder is a [caddy.ReplacerFunc].
func (rec *record) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.megaphone.")
	if !ok {
		return nil, false
	}
	switch name {
	case "endpoint":
		return rec.endpoint.String(), true
	case "channel":
		return rec.channel(), true
	case "transport":
		return rec.transport, true
	case "messages":
		return rec.messages, true
	case "resumed":
		return string(rec.resumed), true
	case "ended_by":
		return rec.endedBy, true
	case "error":
		return rec.code, true
	}
	return nil, false
}

package megaphone

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gobwas/ws"
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

// notePanic counts a panic of a request's handler, which net/http recovers and logs. Defer it.
func (h *Handler) notePanic(r *http.Request) {
	if v := recover(); v != nil {
		if h.direct != nil {
			h.direct.Panicked(r)
		}
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
	address   string // of a write, a read or a member
	topic     string // of a request about a topic
	transport string // of a read
	messages  int    // how many messages were accepted, or sent
	resumed   broker.Resume
	endedBy   string // why a read ended
	closeCode int    // with which the client has closed a WebSocket; 0 if it gave none
	code      string // of the error reply
}

// newAccessLogEntry begins a request's entry, and adds it to the access log and the placeholders.
func newAccessLogEntry(r *http.Request, t *target) *accessLogEntry {
	entry := &accessLogEntry{endpoint: t.endpoint, address: t.address, topic: t.topic}
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

// closeCodeField returns the log field of the close code, which is empty without a code.
func (entry *accessLogEntry) closeCodeField() zap.Field {
	if entry.closeCode == 0 {
		return zap.Skip()
	}
	return zap.Int("close_code", entry.closeCode)
}

// ended sets why the read ended.
func (entry *accessLogEntry) ended(why transport.Reason) { entry.endedBy = why.String() }

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (entry *accessLogEntry) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("endpoint", entry.endpoint.String())
	enc.AddInt("messages", entry.messages)
	entry.closeCodeField().AddTo(enc)
	for _, field := range []struct{ name, value string }{
		{"channel", entry.channel()},
		{"topic", entry.topic},
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
	case "topic":
		return entry.topic, true
	case "transport":
		return entry.transport, true
	case "messages":
		return entry.messages, true
	case "resumed":
		return string(entry.resumed), true
	case "ended_by":
		return entry.endedBy, true
	case "close_code":
		if entry.closeCode == 0 {
			return "", true
		}
		return entry.closeCode, true
	case "error":
		return entry.code, true
	}
	return nil, false
}

// noteCloseCode notes the code with which the client has closed a WebSocket, and warns if the client will never take
// what it was sent.
func (o *openRead) noteCloseCode(code int) {
	o.entry.closeCode = code
	s := o.handler.app.registry
	s.closes.note(o.read.consumer, code)
	if code != int(ws.StatusMessageTooBig) {
		return
	}
	if n := s.refused.Due(1); n > 0 {
		const page = "https://github.com/caddy-megaphone/megaphone/blob/main/docs/troubleshooting.md#a-message-is-too-large-for-a-client"
		o.handler.logger.Warn("a client refuses a message that is too large for it, and will be sent it again",
			zap.String("address", broker.RedactAddress(o.read.consumer)), zap.Int64("refusals", n), zap.String("see", page))
	}
}

// closeCodes has the codes with which clients have closed WebSockets, for operators who ask why a channel is stuck. It
// keeps only the codes that say what was wrong, the last one of a channel, and not of too many channels.
type closeCodes struct {
	mu    sync.Mutex
	codes map[string]int // by consumer address
}

// maxCloseCodes is how many channels closeCodes remembers. Beyond, it forgets any of them.
const maxCloseCodes = 1000

// note notes how a channel's WebSocket was closed.
func (c *closeCodes) note(consumer string, code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.codes, consumer)
	if code == 0 || code == int(ws.StatusNormalClosure) || code == int(ws.StatusGoingAway) {
		return
	}
	if c.codes == nil {
		c.codes = map[string]int{}
	}
	for other := range c.codes {
		if len(c.codes) < maxCloseCodes {
			break
		}
		delete(c.codes, other)
	}
	c.codes[consumer] = code
}

// of returns the code of a channel, or 0.
func (c *closeCodes) of(consumer string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.codes[consumer]
}

package megaphone

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/warning"
)

// limitNames are the settings whose limits can refuse a request.
var limitNames = []string{"max_channels", "max_channels_per_client", "max_memory", "max_readers", "max_topics"}

// limitOf returns the setting whose limit caused an error, or "" if the error has another cause.
func limitOf(err error) string {
	switch {
	case errors.Is(err, broker.ErrChannelLimit):
		return "max_channels"
	case errors.Is(err, broker.ErrClientLimit):
		return "max_channels_per_client"
	case errors.Is(err, broker.ErrMemoryLimit):
		return "max_memory"
	case errors.Is(err, broker.ErrReaderLimit):
		return "max_readers"
	case errors.Is(err, broker.ErrTopicLimit):
		return "max_topics"
	}
	return ""
}

// noteLimit counts n refusals because of a limit, and logs them now and then. It does nothing if the error has another
// cause.
func (h *Handler) noteLimit(err error, n int) {
	limit := limitOf(err)
	if limit == "" || n == 0 {
		return
	}
	s := h.app.registry
	s.metrics.CountLimit(limit, n)
	if n := s.warnings[limit].Due(n); n > 0 {
		h.logger.Warn("a limit was reached, requests are refused", zap.String("setting", limit), zap.Int64("refused", n))
	}
}

// warnings are the rate limits of the log lines about limits, by the setting's name.
type warnings map[string]*warning.Limiter

// newWarnings returns warnings for these settings.
func newWarnings(names []string) warnings {
	w := warnings{}
	for _, name := range names {
		w[name] = new(warning.Limiter)
	}
	return w
}

// clientOf returns a name for the client, for the limit on the channels of one client. An IPv4 client is its address,
// an IPv6 client its /64 network. The address is Caddy's client IP, so behind a trusted proxy it is the one that the
// proxy reports. All clients without an IP address, as on a Unix socket, count as one.
func clientOf(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return "unknown"
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
}

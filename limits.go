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

// limitNames are the settings that limit what all clients use together.
var limitNames = []string{"max_channels", "max_channels_per_client", "max_memory", "max_readers"}

// limitOf returns the setting for whose sake an error refuses a request, or "".
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
	}
	return ""
}

// noteLimit counts and logs, now and then, that a limit was reached n times, if that is what the error tells.
func (h *Handler) noteLimit(err error, n int) {
	limit := limitOf(err)
	if limit == "" || n == 0 {
		return
	}
	s := h.app.registry
	s.metrics.LimitHits[limit].Add(float64(n))
	if n := s.warnings[limit].Due(n); n > 0 {
		h.logger.Warn("a limit was reached, requests are refused", zap.String("setting", limit), zap.Int64("refused", n))
	}
}

// warnings are the warnings about limits, by the setting's name.
type warnings map[string]*warning.Limiter

func newWarnings(names []string) warnings {
	w := warnings{}
	for _, name := range names {
		w[name] = new(warning.Limiter)
	}
	return w
}

// clientOf tells clients apart, for the limit on each one's channels: by Caddy's client IP, which is the one that a
// trusted proxy reports. IPv6 clients have a whole /64 network each. Clients without an IP address, on a Unix
// socket, count as one.
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

package megaphone

import (
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// maxTake is how many bytes of lines are taken from the channel for one flush.
const maxTake = 64 << 10

// serveRead streams a channel's messages to its consumer (protocol.md 1.6).
func (h *Handler) serveRead(w http.ResponseWriter, r *http.Request, consumer string) error {
	if r.Method == http.MethodHead {
		if _, err := h.app.broker.State(r.Context(), consumer); err != nil {
			return err
		}
		transport.SetStreamHeader(w.Header(), transport.NDJSONType)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	sub, err := h.app.broker.Subscribe(r.Context(), consumer, SubscribeOptions{Limits: h.app.limits})
	if err != nil {
		return err
	}
	how := EndFault
	defer func() { sub.End(how) }()
	how = feed(r, sub, transport.NewNDJSON(w, time.Duration(h.app.WriteTimeout)), time.Duration(h.app.ReadDuration))
	return nil
}

// feed passes messages from the subscription to the transport until the read has lasted its duration, the
// subscription is over, or the client is gone. It reports how the read ended.
func feed(r *http.Request, sub Subscription, t transport.Transport, duration time.Duration) End {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	if err := t.Start(); err != nil {
		return EndFault
	}
	var (
		ms   []*Message
		sent int
	)
	for {
		ms, _ = sub.Take(ms[:0], maxTake)
		if len(ms) > 0 {
			for _, m := range ms {
				t.Append(m.ID(), m.Line())
			}
			if err := t.Flush(); err != nil {
				return EndFault
			}
			sent += len(ms)
			sub.Received(sent)
			clear(ms)
			select {
			case <-timer.C:
				return EndClean
			default:
				continue
			}
		}
		select {
		case <-sub.Ready():
		case <-timer.C:
			return EndClean
		case <-sub.Done():
			return EndClean
		case <-r.Context().Done():
			return EndFault
		}
	}
}

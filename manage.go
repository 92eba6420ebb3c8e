package megaphone

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// A channelState is what may be known of a channel by who has one of its addresses (protocol.md 2.9).
type channelState struct {
	Address   string     `json:"address"`
	Connected bool       `json:"connected"`
	Pending   int        `json:"pending"`
	InFlight  int        `json:"inFlight"`
	Created   time.Time  `json:"created"`
	LastRead  *time.Time `json:"lastRead"` // null: never
	Expires   *time.Time `json:"expires"`  // null: not while it is read
}

// serveManage tells a channel's state, or deletes the channel (protocol.md 2.9).
func (h *Handler) serveManage(w http.ResponseWriter, r *http.Request, address string) error {
	if r.Method == http.MethodDelete {
		if err := h.app.broker.Delete(r.Context(), address); err != nil {
			return err
		}
		httpjson.Write(w, http.StatusOK, httpjson.OK)
		return nil
	}
	state, err := h.app.broker.State(r.Context(), address)
	if err != nil {
		return err
	}
	reply, err := json.Marshal(channelState{
		Address:   address,
		Connected: state.Connected,
		Pending:   state.Pending,
		InFlight:  state.InFlight,
		Created:   state.Created.UTC(),
		LastRead:  httpjson.TimeOrNull(state.LastRead),
		Expires:   httpjson.TimeOrNull(state.Expires),
	})
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, reply)
	return nil
}

// serveHealth tells a load balancer whether new clients should be sent here: not while the server is drained, nor
// in the time that it is given to shut down.
func (h *Handler) serveHealth(w http.ResponseWriter) error {
	if !h.app.registry.healthy() {
		w.Header().Set("Retry-After", strconv.Itoa(httpjson.RetryAfter))
		httpjson.Write(w, http.StatusServiceUnavailable, statusDraining)
		return nil
	}
	httpjson.Write(w, http.StatusOK, httpjson.OK)
	return nil
}

var statusDraining = []byte(`{"status":"DRAINING"}`)

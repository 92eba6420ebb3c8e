package admin

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// Stats is what the admin API shows of the whole server.
type Stats struct {
	Agent string `json:"agent"`

	Channels    int `json:"channels"`
	MaxChannels int `json:"maxChannels"`
	Readers     int `json:"readers"` // channels that are being read
	MaxReaders  int `json:"maxReaders"`

	HeldProducers int    `json:"heldProducers"` // wait for room
	Pending       uint64 `json:"pending"`
	InFlight      uint64 `json:"inFlight"`
	BufferedBytes int64  `json:"bufferedBytes"`
	MaxMemory     int64  `json:"maxMemory"`

	// Since the process has started; accepted = settled + undelivered + pending + inFlight.
	Accepted    uint64 `json:"accepted"`
	Settled     uint64 `json:"settled"`
	Undelivered uint64 `json:"undelivered"`

	Draining bool `json:"draining"`
}

// stats tells the totals.
func stats(v View, _ *http.Request) (int, any, error) {
	var totals broker.Stats
	if b, ok := v.Broker.(broker.Statser); ok {
		totals = b.Stats()
	}
	reply := Stats{
		Agent:         v.Agent,
		Channels:      totals.Channels,
		MaxChannels:   v.Limits.MaxChannels,
		Readers:       totals.Readers,
		MaxReaders:    v.Limits.MaxReaders,
		HeldProducers: totals.HeldProducers,
		Pending:       totals.Pending,
		InFlight:      totals.InFlight,
		BufferedBytes: totals.BufferedBytes,
		MaxMemory:     v.Limits.MaxMemory,
		Accepted:      totals.Accepted,
		Settled:       totals.Settled,
		Undelivered:   totals.AllUndelivered(),
	}
	if b, ok := v.Broker.(broker.Drainer); ok {
		reply.Draining = b.DrainState().Active
	}
	return http.StatusOK, reply, nil
}

// An DrainState is what the admin API shows of a drain.
type DrainState struct {
	Draining bool       `json:"draining"`
	Done     bool       `json:"done"`
	Started  *time.Time `json:"started"` // null: there is no drain
	Over     string     `json:"over"`
	// Channels is how many there were at the beginning, and Remaining how many of them are not gone.
	Channels  int `json:"channels"`
	Remaining int `json:"remaining"`
	// Undelivered counts the messages that have been lost since then, with channels that nobody has read in time.
	Undelivered int `json:"undelivered"`
}

func newDrainState(s broker.DrainState) DrainState {
	return DrainState{
		Draining: s.Active, Done: s.Done, Started: httpjson.TimeOrNull(s.Started), Over: s.Over.String(),
		Channels: s.Channels, Remaining: s.Remaining, Undelivered: s.Undelivered,
	}
}

// drainState tells how far the drain has come.
func drainState(v View, _ *http.Request) (int, any, error) {
	d, err := drainer(v)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, newDrainState(d.DrainState()), nil
}

// drainer returns the Broker if it can be drained.
func drainer(v View) (broker.Drainer, error) {
	if d, ok := v.Broker.(broker.Drainer); ok {
		return d, nil
	}
	return nil, newError(http.StatusNotImplemented, "the configured broker cannot be drained")
}

// StandardDrain is the time over which a drain is spread where the request does not say.
const StandardDrain = 30 * time.Second

// drain begins a drain.
func drain(v View, r *http.Request) (int, any, error) {
	var body struct {
		Over *string `json:"over"`
	}
	if err := parseBody(r, &body); err != nil {
		return 0, nil, err
	}
	over := StandardDrain
	if body.Over != nil {
		var err error
		if over, err = caddy.ParseDuration(*body.Over); err != nil || over < 0 {
			return 0, nil, newError(http.StatusBadRequest, "over is a duration, such as 0s, 30s or 5m")
		}
	}
	d, err := drainer(v)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, newDrainState(d.Drain(over)), nil
}

// undrain ends a drain.
func undrain(v View, _ *http.Request) (int, any, error) {
	d, err := drainer(v)
	if err != nil {
		return 0, nil, err
	}
	d.Undrain()
	return http.StatusOK, newDrainState(d.DrainState()), nil
}

// health tells whether new clients are welcome, as the endpoint health of a site does.
func health(v View, _ *http.Request) (int, any, error) {
	status, text := http.StatusOK, "OK"
	if !v.Healthy {
		status, text = http.StatusServiceUnavailable, "DRAINING"
	}
	return status, struct {
		Status string `json:"status"`
	}{text}, nil
}

package megaphone

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
)

// adminTotals is what the admin API shows of the whole server.
type adminTotals struct {
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

// adminStats tells the totals.
func adminStats(a *App, _ *http.Request) (int, any, error) {
	totals := a.registry.stats()
	reply := adminTotals{
		Agent:         a.Agent,
		Channels:      totals.Channels,
		MaxChannels:   a.MaxChannels,
		Readers:       totals.Readers,
		MaxReaders:    a.MaxReaders,
		HeldProducers: totals.HeldProducers,
		Pending:       totals.Pending,
		InFlight:      totals.InFlight,
		BufferedBytes: totals.BufferedBytes,
		MaxMemory:     a.MaxMemory,
		Accepted:      totals.Accepted,
		Settled:       totals.Settled,
		Undelivered:   totals.AllUndelivered(),
		Draining:      a.registry.drains(),
	}
	return http.StatusOK, reply, nil
}

// An adminDrainReply is what the admin API shows of a drain.
type adminDrainReply struct {
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

func newAdminDrainReply(s broker.DrainState) adminDrainReply {
	return adminDrainReply{
		Draining: s.Active, Done: s.Done, Started: timeOrNull(s.Started), Over: s.Over.String(),
		Channels: s.Channels, Remaining: s.Remaining, Undelivered: s.Undelivered,
	}
}

// adminDrainState tells how far the drain has come.
func adminDrainState(a *App, _ *http.Request) (int, any, error) {
	d, err := drainer(a)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, newAdminDrainReply(d.DrainState()), nil
}

// drainer returns the Broker if it can be drained.
func drainer(a *App) (broker.Drainer, error) {
	if d, ok := a.broker.(broker.Drainer); ok {
		return d, nil
	}
	return nil, adminError(http.StatusNotImplemented, "the configured broker cannot be drained")
}

// standardDrain is the time over which a drain is spread where the request does not say.
const standardDrain = 30 * time.Second

// adminDrain begins a drain.
func adminDrain(a *App, r *http.Request) (int, any, error) {
	var body struct {
		Over *string `json:"over"`
	}
	if err := parseAdminBody(r, &body); err != nil {
		return 0, nil, err
	}
	over := standardDrain
	if body.Over != nil {
		var err error
		if over, err = caddy.ParseDuration(*body.Over); err != nil || over < 0 {
			return 0, nil, adminError(http.StatusBadRequest, "over is a duration, such as 0s, 30s or 5m")
		}
	}
	d, err := drainer(a)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, newAdminDrainReply(d.Drain(over)), nil
}

// adminUndrain ends a drain.
func adminUndrain(a *App, _ *http.Request) (int, any, error) {
	d, err := drainer(a)
	if err != nil {
		return 0, nil, err
	}
	d.Undrain()
	return http.StatusOK, newAdminDrainReply(d.DrainState()), nil
}

// adminHealth tells whether new clients are welcome, as the endpoint health of a site does.
func adminHealth(a *App, _ *http.Request) (int, any, error) {
	status, text := http.StatusOK, "OK"
	if !a.registry.healthy() {
		status, text = http.StatusServiceUnavailable, "DRAINING"
	}
	return status, struct {
		Status string `json:"status"`
	}{text}, nil
}

package admin

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// Stats are the totals of a server, and its limits. The totals are zero if the Broker does not count.
type Stats struct {
	// Agent is the first part of the addresses that the server creates.
	Agent string `json:"agent"`

	// Version is that of the Megaphone module in the server's binary, such as v1.2.3, or "(devel)" if it was built from a working
	// copy. CaddyVersion is that of Caddy.
	Version      string `json:"version"`
	CaddyVersion string `json:"caddyVersion"`
	// Started is when the process started, in UTC, and Uptime how long ago, as [time.Duration] writes it. A reload changes neither.
	Started time.Time `json:"started"`
	Uptime  string    `json:"uptime"`

	// Channels is how many channels there are, of at most MaxChannels.
	Channels    int `json:"channels"`
	MaxChannels int `json:"maxChannels"`
	// Readers is how many channels have a reader, of at most MaxReaders. If that is 0, all channels may have one.
	Readers    int `json:"readers"`
	MaxReaders int `json:"maxReaders"`

	// HeldProducers counts the calls in which a producer waits for room in a channel.
	HeldProducers int `json:"heldProducers"`
	// Pending and InFlight count the messages that channels hold.
	Pending  uint64 `json:"pending"`
	InFlight uint64 `json:"inFlight"`
	// BufferedBytes is how many bytes the messages in channels take. All messages may take at most MaxMemory bytes.
	BufferedBytes int64 `json:"bufferedBytes"`
	MaxMemory     int64 `json:"maxMemory"`

	// Accepted, Merged, Settled and Undelivered count messages since the process started. Accepted is the sum of Merged,
	// Settled, Undelivered, Pending and InFlight.
	Accepted uint64 `json:"accepted"`
	// Merged counts accepted messages that have replaced the one before, or were appended to it.
	Merged      uint64 `json:"merged"`
	Settled     uint64 `json:"settled"`
	Undelivered uint64 `json:"undelivered"`

	// Topics is how many topics there are, Members how many members they have together, and KeptBytes what they keep.
	Topics    int   `json:"topics"`
	Members   int   `json:"members"`
	KeptBytes int64 `json:"keptBytes"`
	// Published counts messages that were published to topics, and Skipped how often a member has missed one of them.
	Published uint64 `json:"published"`
	Skipped   uint64 `json:"skipped"`

	// Draining says whether the server is being drained, or is drained.
	Draining bool `json:"draining"`

	// Store is what happens between the server and its store, or nil if the Broker has none.
	Store *Store `json:"store,omitempty"`
}

// A Store is what happened between a server and the store of its channels since the process started.
type Store struct {
	// Up says whether the store can be reached, and what it pushes comes. If not, Error says why.
	Up    bool   `json:"up"`
	Error string `json:"error,omitempty"`
	// RoundTrips counts calls, and Failures those that the store did not answer or refused.
	RoundTrips uint64 `json:"roundTrips"`
	Failures   uint64 `json:"failures"`
	// Queued is how many writes wait to be sent.
	Queued int `json:"queued"`
	// Reconnects, Resyncs, Fenced and LostPushes are those of [broker.StoreStats].
	Reconnects uint64 `json:"reconnects"`
	Resyncs    uint64 `json:"resyncs"`
	Fenced     uint64 `json:"fenced"`
	LostPushes uint64 `json:"lostPushes"`
	// Nodes are the servers that share the store. It is never nil.
	Nodes []Node `json:"nodes"`
}

// A Node is a server that shares the store.
type Node struct {
	// ID names the node as logs do, and Self says whether it is the server that answers.
	ID   string `json:"id"`
	Self bool   `json:"self"`
	// Host and Process say where it runs. They may be empty.
	Host    string `json:"host"`
	Process int    `json:"process"`
	// Readers is how many readers it has.
	Readers int `json:"readers"`
	// Seen is when it last told the store that it lives, in UTC, by the store's clock.
	Seen time.Time `json:"seen"`
}

// storeOf returns what a Broker tells of its store, or nil if it has none.
func storeOf(b broker.Broker) *Store {
	statser, ok := b.(broker.StoreStatser)
	if !ok {
		return nil
	}
	s := statser.StoreStats()
	store := &Store{
		Up: true, RoundTrips: s.RoundTrips, Failures: s.Failures, Queued: s.Queued, Reconnects: s.Reconnects, Resyncs: s.Resyncs,
		Fenced: s.Fenced, LostPushes: s.LostPushes, Nodes: make([]Node, len(s.Nodes)),
	}
	if checker, ok := b.(broker.HealthChecker); ok {
		if err := checker.Healthy(); err != nil {
			store.Up, store.Error = false, err.Error()
		}
	}
	for i, n := range s.Nodes {
		store.Nodes[i] = Node{ID: n.ID, Self: n.Self, Host: n.Host, Process: n.Process, Readers: n.Readers, Seen: n.Seen.UTC()}
	}
	return store
}

// stats serves the totals.
func stats(v View, _ *http.Request) (int, any, error) {
	totals := broker.StatsOf(v.Broker)
	reply := Stats{
		Agent:         v.Agent,
		Version:       version(),
		CaddyVersion:  caddyVersion(),
		Started:       started.Round(0).UTC(),
		Uptime:        time.Since(started).Round(time.Second).String(),
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
		Merged:        totals.Replaced + totals.Appended,
		Settled:       totals.Settled,
		Undelivered:   totals.AllUndelivered(),
		Topics:        totals.Topics,
		Members:       totals.Memberships,
		KeptBytes:     totals.KeptBytes,
		Published:     totals.Published,
		Skipped:       totals.Skipped,
		Draining:      broker.IsDraining(v.Broker),
		Store:         storeOf(v.Broker),
	}
	return http.StatusOK, reply, nil
}

// A DrainState says how far a drain has come. It is zero, except for Over, if there is no drain.
type DrainState struct {
	// Draining says whether the server is being drained, or is drained.
	Draining bool `json:"draining"`
	// Done says whether all channels of the drain are gone.
	Done bool `json:"done"`
	// Started is when the drain began, in UTC, or nil if there is no drain.
	Started *time.Time `json:"started"`
	// Over is the time over which the drain is spread, as [time.Duration] writes it.
	Over string `json:"over"`
	// Channels is how many channels there were when the drain began. Remaining is how many of them are left.
	Channels  int `json:"channels"`
	Remaining int `json:"remaining"`
	// Undelivered is how many messages were lost since the drain began, because their channel expired or was
	// deleted.
	Undelivered int `json:"undelivered"`
}

func newDrainState(s broker.DrainState) DrainState {
	return DrainState{
		Draining: s.Active, Done: s.Done, Started: httpjson.TimeOrNull(s.Started), Over: s.Over.String(),
		Channels: s.Channels, Remaining: s.Remaining, Undelivered: s.Undelivered,
	}
}

// drainState serves the state of the drain.
func drainState(v View, _ *http.Request) (int, any, error) {
	d, err := drainer(v)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, newDrainState(d.DrainState()), nil
}

// drainer returns the Broker, if it can be drained.
func drainer(v View) (broker.Drainer, error) {
	if d, ok := v.Broker.(broker.Drainer); ok {
		return d, nil
	}
	return nil, newError(http.StatusNotImplemented, "the configured broker cannot be drained")
}

// DefaultDrainTime is the time over which a drain is spread if the request does not say.
const DefaultDrainTime = 30 * time.Second

// drain begins a drain.
func drain(v View, r *http.Request) (int, any, error) {
	var body struct {
		Over *string `json:"over"`
	}
	if err := parseBody(r, &body); err != nil {
		return 0, nil, err
	}
	over := DefaultDrainTime
	if body.Over != nil {
		var err error
		if over, err = caddy.ParseDuration(*body.Over); err != nil || over < 0 {
			return 0, nil, newError(http.StatusBadRequest,
				fmt.Sprintf("over: %q is not a valid duration: use for example 0s, 30s or 5m", *body.Over))
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

// health reports whether new clients are welcome, as the endpoint health of a site does.
func health(v View, _ *http.Request) (int, any, error) {
	status := http.StatusOK
	if v.Health != "OK" {
		status = http.StatusServiceUnavailable
	}
	return status, struct {
		Status string `json:"status"`
	}{v.Health}, nil
}

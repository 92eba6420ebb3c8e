package rules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

// eval evaluates an alert rule over series, as promtool does.
func eval(t *testing.T, alert, series, want string) {
	t.Helper()
	for _, rule := range alertRules(t).Groups[0].Rules {
		if rule.Alert == alert {
			promqltest.RunTest(t, fmt.Sprintf("load 1m%s\neval instant at 4m count by (instance, endpoint) (%s)\n%s\n",
				series, strings.Join(strings.Fields(rule.Expr), " "), want), promqltest.NewTestEngine(t, false, 0, 1000))
			return
		}
	}
	t.Errorf("there is no rule %s", alert)
}

// The rule fires at the first status 500 if the counter existed before, as it does in Megaphone. It does not fire if
// the counter first appears with the fault.
func TestFirstFaultFiresTheAlert(t *testing.T) {
	eval(t, "MegaphoneFaults", `
	caddy_megaphone_requests_refused_total{instance="a",endpoint="read",code="INTERNAL_SERVER_ERROR"} 0 0 0 1 1
	caddy_megaphone_requests_refused_total{instance="a",endpoint="write",code="INTERNAL_SERVER_ERROR"} 0 0 0 0 0
	caddy_megaphone_requests_refused_total{instance="a",endpoint="create",code="TIMEOUT"} 0 0 0 1 1
	caddy_megaphone_requests_refused_total{instance="a",endpoint="late",code="INTERNAL_SERVER_ERROR"} _ _ _ 1 1
`, `	{instance="a",endpoint="read"} 1`)
}

// The first mismatch of a direct write fires the rule, on its instance only.
func TestTheFirstMismatchFiresTheAlert(t *testing.T) {
	eval(t, "MegaphoneDirectWritesDiffer", `
	caddy_megaphone_direct_mismatches_total{instance="a"} 0 0 0 1 1
	caddy_megaphone_direct_mismatches_total{instance="b"} 0 0 0 0 0
	caddy_megaphone_direct_mismatches_total{instance="c"} 1 1 1 1 1
`, `	{instance="a"} 1`)
}

func TestAChangedInternalFiresTheAlert(t *testing.T) {
	eval(t, "MegaphoneInternalsChanged", `
	caddy_megaphone_changed_internals{instance="a",type="net/http.conn"} 1 1 1 1 1
	caddy_megaphone_changed_internals{instance="a",type="net/http.body"} 0 0 0 0 0
	caddy_megaphone_changed_internals{instance="b",type="net/http.conn"} 0 0 0 0 0
`, `	{instance="a"} 1`)
}

// The counters of all places exist from the start, so the first panic fires the alert.
func TestFirstPanicFiresTheAlert(t *testing.T) {
	for _, rule := range alertRules(t).Groups[0].Rules {
		if rule.Alert != "MegaphonePanics" {
			continue
		}
		promqltest.RunTest(t, fmt.Sprintf(`
load 1m
	caddy_megaphone_panics_total{instance="a",place="event"} 0 0 0 1 1
	caddy_megaphone_panics_total{instance="a",place="broker"} 0 0 0 0 0

eval instant at 4m count by (instance, place) (%s)
	{instance="a",place="event"} 1
`, rule.Expr), promqltest.NewTestEngine(t, false, 0, 1000))
		return
	}
	t.Error("there is no rule MegaphonePanics")
}

func TestAStorageThatIsDownFiresTheAlert(t *testing.T) {
	eval(t, "MegaphoneStorageDown", `
	caddy_megaphone_storage_up{instance="a"} 1 1 1 0 0
	caddy_megaphone_storage_up{instance="b"} 1 1 1 1 1
`, `	{instance="a"} 1`)
}

func TestAStoreThatFailsFiresTheAlert(t *testing.T) {
	eval(t, "MegaphoneStoreFails", `
	caddy_megaphone_store_failures_total{instance="a"} 0 0 2 4 6
	caddy_megaphone_store_round_trips_total{instance="a"} 0+100x4
	caddy_megaphone_store_failures_total{instance="b"} 0 0 0 0 1
	caddy_megaphone_store_round_trips_total{instance="b"} 0+100x4
	caddy_megaphone_store_failures_total{instance="idle"} 0 0 0 0 0
	caddy_megaphone_store_round_trips_total{instance="idle"} 0 0 0 0 0
`, `	{instance="a"} 1`)
}

func TestASlowStoreFiresTheAlert(t *testing.T) {
	eval(t, "MegaphoneStoreSlow", `
	caddy_megaphone_store_latency_seconds_bucket{instance="a",le="0.025"} 0+97x4
	caddy_megaphone_store_latency_seconds_bucket{instance="a",le="0.1"} 0+97x4
	caddy_megaphone_store_latency_seconds_bucket{instance="a",le="0.5"} 0+100x4
	caddy_megaphone_store_latency_seconds_bucket{instance="a",le="+Inf"} 0+100x4
	caddy_megaphone_store_latency_seconds_bucket{instance="b",le="0.025"} 0+100x4
	caddy_megaphone_store_latency_seconds_bucket{instance="b",le="0.1"} 0+100x4
	caddy_megaphone_store_latency_seconds_bucket{instance="b",le="+Inf"} 0+100x4
`, `	{instance="a"} 1`)
}

func TestTheStoresQueueAndReconnectsFireAlerts(t *testing.T) {
	eval(t, "MegaphoneStoreQueue", `
	caddy_megaphone_store_queue{instance="a"} 0 0 0 0 2000
	caddy_megaphone_store_queue{instance="b"} 2000 2000 2000 0 10
`, `	{instance="a"} 1`)
	eval(t, "MegaphoneStoreReconnects", `
	caddy_megaphone_store_reconnects_total{instance="a"} 0 2 4 6 8
	caddy_megaphone_store_reconnects_total{instance="b"} 0 0 1 1 1
`, `	{instance="a"} 1`)
}

func TestMembersThatMissMessagesFireTheAlert(t *testing.T) {
	eval(t, "MegaphoneMembersMissMessages", `
	caddy_megaphone_messages_skipped_total{instance="a"} 0+2x4
	caddy_megaphone_messages_accepted_total{instance="a"} 0+100x4
	caddy_megaphone_messages_skipped_total{instance="b"} 0 0 0 0 1
	caddy_megaphone_messages_accepted_total{instance="b"} 0+100x4
	caddy_megaphone_messages_skipped_total{instance="idle"} 0 0 0 0 0
	caddy_megaphone_messages_accepted_total{instance="idle"} 0 0 0 0 0
`, `	{instance="a"} 1`)
}

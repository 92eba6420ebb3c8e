package rules

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

// eval evaluates an alert rule over series, as promtool does.
func eval(t *testing.T, alert, series, want string) {
	t.Helper()
	for _, rule := range alertRules(t).Groups[0].Rules {
		if rule.Alert == alert {
			promqltest.RunTest(t, fmt.Sprintf("load 1m%s\neval instant at 4m count by (instance, endpoint) (%s)\n%s\n",
				series, rule.Expr, want), promqltest.NewTestEngine(t, false, 0, 1000))
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

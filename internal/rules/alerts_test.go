package rules

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

// The rule fires at the first status 500 if the counter existed before, as it does in Megaphone. It does not fire if
// the counter first appears with the fault.
func TestFirstFaultFiresTheAlert(t *testing.T) {
	for _, rule := range alertRules(t).Groups[0].Rules {
		if rule.Alert != "MegaphoneFaults" {
			continue
		}
		promqltest.RunTest(t, fmt.Sprintf(`
load 1m
	caddy_megaphone_requests_refused_total{instance="a",endpoint="read",code="INTERNAL_SERVER_ERROR"} 0 0 0 1 1
	caddy_megaphone_requests_refused_total{instance="a",endpoint="write",code="INTERNAL_SERVER_ERROR"} 0 0 0 0 0
	caddy_megaphone_requests_refused_total{instance="a",endpoint="create",code="TIMEOUT"} 0 0 0 1 1
	caddy_megaphone_requests_refused_total{instance="a",endpoint="late",code="INTERNAL_SERVER_ERROR"} _ _ _ 1 1

eval instant at 4m count by (instance, endpoint) (%s)
	{instance="a",endpoint="read"} 1
`, rule.Expr), promqltest.NewTestEngine(t, false, 0, 1000))
		return
	}
	t.Error("there is no rule MegaphoneFaults")
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

package rules

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// TestFirstFaultIsSeen: the rule fires at the first status 500 if the counter was there before it, as Megaphone has it, and
// not if it comes with the fault.
func TestFirstFaultIsSeen(t *testing.T) {
	groups, errs := rulefmt.ParseFile("../../docs/prometheus/alerts.yml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, rule := range groups.Groups[0].Rules {
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

package megaphone_test

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestMetricsCompat: each configuration shows our metrics under the names that it gives, with the values that they have
// across reloads, and ours stay.
func TestMetricsCompat(t *testing.T) {
	const limits = "megaphone {\nbuffer 2\nhold 50ms\n"
	s := serve(t, limits+`metrics_compat {
		old_created caddy_megaphone_channels_created_total
		old_refused caddy_megaphone_requests_refused_total
		old_wait    caddy_megaphone_publish_wait_seconds
	}
	}`, "megaphone create write read exists manage")
	a, b := s.create(), s.create()
	s.write(a, "1")
	s.write(a, "2")
	s.post("/write/"+a.ProducerAddress+"/s", "3").wantError(t, 503, "TIMEOUT")
	s.get("/create").wantError(t, 405, "METHOD_NOT_ALLOWED")
	s.wantShown(map[string]float64{
		"old_created{}": 2, "caddy_megaphone_channels_created_total{}": 2,
		"old_refused{}": 2, `caddy_megaphone_requests_refused_total{code="TIMEOUT",endpoint="write"}`: 1,
		"old_wait{}": 2, "caddy_megaphone_publish_wait_seconds{}": 2,
	})

	if err := s.load(limits+`metrics_compat {
		old_created caddy_megaphone_channels_created_total
		old_gone    caddy_megaphone_channels_deleted_total
		old_lives   caddy_megaphone_channel_life_seconds
	}
	}`, "megaphone create write read exists manage"); err != nil {
		t.Fatal(err)
	}
	s.create()
	s.do(http.MethodDelete, "/channel/"+b.ProducerAddress, nil, nil)
	s.wantShown(map[string]float64{
		"old_created{}": 3, "old_gone{}": 1, "old_lives{}": 1, `caddy_megaphone_channels_deleted_total{reason="deleted"}`: 1,
	})
	s.wantNotShown("old_refused{}", "old_wait{}")

	// A configuration that is refused changes nothing.
	bad := `{"admin":{"disabled":true},"apps":{"megaphone":{"metrics_compat":{"old-created":"caddy_megaphone_channels"}}}}`
	if err := caddy.Load([]byte(bad), true); err == nil {
		t.Error("a bad name was accepted")
	}
	s.wantShown(map[string]float64{"old_created{}": 3})

	if err := s.load(limits+"}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	s.wantShown(map[string]float64{"caddy_megaphone_channels_created_total{}": 3})
	s.wantNotShown("old_created{}", "old_gone{}", "old_lives{}")
}

// wantShown compares some of the metrics that a scrape shows, named in full.
func (s *server) wantShown(want map[string]float64) {
	s.Helper()
	got := s.metrics()
	for key, value := range want {
		if v, ok := got[key]; !ok || v != value {
			s.Errorf("%s is %v (%v), want %v", key, v, ok, value)
		}
	}
}

func (s *server) wantNotShown(keys ...string) {
	s.Helper()
	got := s.metrics()
	for _, key := range keys {
		if v, ok := got[key]; ok {
			s.Errorf("%s is %v, and should not be there", key, v)
		}
	}
}

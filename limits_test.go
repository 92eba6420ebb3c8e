package megaphone_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
)

// wantLimit checks that a reply refuses a request because of a limit.
func (r reply) wantLimit(t *testing.T, status int) {
	t.Helper()
	r.wantError(t, status, "LIMIT_REACHED")
	if r.Header.Get("Retry-After") == "" {
		t.Error("the reply has no Retry-After")
	}
}

func TestLimits(t *testing.T) {
	t.Run("max_channels", func(t *testing.T) {
		s := serve(t, "megaphone {\nmax_channels 1\n}", "megaphone")
		s.create()
		s.tryCreate().wantLimit(t, 503)
		s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_channels"}`: 1})
	})
	t.Run("max_readers", func(t *testing.T) {
		s := serve(t, "megaphone {\nmax_readers 1\n}", "megaphone")
		a, b := s.create(), s.create()
		read := s.read(a)
		s.poll(b).wantLimit(t, 503)
		s.readAfter(a, "") // takes over
		read.ends()
		s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_readers"}`: 1})
	})
	t.Run("max_memory", func(t *testing.T) {
		s := serve(t, "megaphone {\nmax_memory 1000\nhold 0s\n}", "megaphone")
		a, b := s.create(), s.create()
		s.write(a, `"`+strings.Repeat("x", 1000)+`"`)
		s.tryWrite(b, "1").wantLimit(t, 503)
		batch := s.post("/write-batch", `{"channels":["`+b.ProducerAddress+`"],"messages":[{"streamId":"s","body":1}]}`)
		if !strings.Contains(batch.body, "LIMIT_REACHED") {
			t.Errorf("batch: %s", batch.body)
		}
		ingest := s.ingest(strings.NewReader(ingestLine(b.ProducerAddress, "1")))
		if !strings.Contains(ingest.body, "LIMIT_REACHED") {
			t.Errorf("ingest: %s", ingest.body)
		}
		s.wantMetrics(map[string]float64{
			`limit_refusals_total{limit="max_memory"}`: 3, `messages_refused_total{reason="memory_full"}`: 3,
		})
	})
}

// TestChannelsPerClient checks that the address that a proxy reports tells clients apart, but only if the proxy is trusted.
func TestChannelsPerClient(t *testing.T) {
	create := func(s *server, from string) reply {
		return s.do(http.MethodPost, "/create", http.Header{"X-Forwarded-For": {from}}, nil)
	}
	const settings = "megaphone {\nmax_channels_per_client 2\n}\n"
	t.Run("behind a trusted proxy", func(t *testing.T) {
		s := serve(t, settings+"servers {\ntrusted_proxies_unix\n}", "megaphone")
		for _, client := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "::ffff:192.0.2.3"} {
			for range 2 {
				if r := create(s, client); r.StatusCode != http.StatusOK {
					t.Errorf("%s: %d %s", client, r.StatusCode, r.body)
				}
			}
			create(s, client).wantLimit(t, 429)
		}
		create(s, "2001:db8::2").wantLimit(t, 429) // in the same network
		create(s, "192.0.2.3").wantLimit(t, 429)   // the same address in another notation
		s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_channels_per_client"}`: 7, "channels": 10})
	})
	t.Run("behind another proxy", func(t *testing.T) {
		s := serve(t, settings, "megaphone")
		create(s, "192.0.2.1")
		create(s, "192.0.2.2")
		create(s, "192.0.2.3").wantLimit(t, 429)
	})
	t.Run("after a reload that changes the limit", func(t *testing.T) {
		s := serve(t, settings, "megaphone")
		s.create()
		s.create()
		s.reload(strings.Replace(settings, "2", "3", 1), "megaphone")
		s.create()
		create(s, "").wantLimit(t, 429)
	})
}

// TestLimitRefusalsOfAnIngestAreAllCounted checks that refusals count even if they are not in the reply's list of
// failures.
func TestLimitRefusalsOfAnIngestAreAllCounted(t *testing.T) {
	s := serve(t, "megaphone {\nmax_memory 1000\nhold 0s\n}", "megaphone")
	s.write(s.create(), `"`+strings.Repeat("x", 1000)+`"`)
	const n = broker.MaxIngestFailures + 100
	var lines strings.Builder
	for range n {
		lines.WriteString(ingestLine(s.create().ProducerAddress, "1") + "\n")
	}
	s.ingest(strings.NewReader(lines.String()))
	s.wantMetrics(map[string]float64{
		`limit_refusals_total{limit="max_memory"}`: n, `messages_refused_total{reason="memory_full"}`: n,
	})
}

func TestRefusalsByLimitsHaveRetryAfter(t *testing.T) {
	s := serve(t, "megaphone {\nmax_channels 2\nmax_memory 1KB\nhold 0s\n}", "megaphone")
	c := s.create()
	s.create()
	s.tryCreate().wantLimit(t, 503)
	s.write(c, `"`+strings.Repeat("x", 1000)+`"`)
	s.tryWrite(c, "1").wantLimit(t, 503)
}

// TestLimitWarnings checks that a limit that refuses several requests in a row is logged once.
func TestLimitWarnings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := serve(t, "log warnings {\noutput file "+path+" {\nroll_disabled\n}\ninclude http.handlers.megaphone\n}\nmegaphone {\nmax_channels 1\n}", "megaphone")
	s.create()
	for range 10 {
		s.tryCreate()
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, text)
	}
	for _, want := range []string{`"level":"warn"`, `"setting":"max_channels"`, `"refused":1`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s has no %s", text, want)
		}
	}
}

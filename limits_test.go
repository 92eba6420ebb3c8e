package megaphone_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
)

// wantLimit checks a reply that refuses because of a limit.
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
		s.do(http.MethodPost, "/create", nil, nil).wantLimit(t, 503)
		s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_channels"}`: 1})
	})
	t.Run("max_readers", func(t *testing.T) {
		s := serve(t, "megaphone {\nmax_readers 1\n}", "megaphone")
		a, b := s.create(), s.create()
		read := s.read("/read/" + a.ConsumerAddress)
		s.get("/read/"+b.ConsumerAddress).wantLimit(t, 503)
		s.get("/read/"+b.ConsumerAddress+"?poll=0").wantLimit(t, 503)
		s.read("/read/" + a.ConsumerAddress + "?after=") // takes over
		read.ends()
		s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_readers"}`: 2})
	})
	t.Run("max_memory", func(t *testing.T) {
		s := serve(t, "megaphone {\nmax_memory 1000\nhold 0s\n}", "megaphone")
		a, b := s.create(), s.create()
		s.write(a, `"`+strings.Repeat("x", 1000)+`"`)
		s.post("/write/"+b.ProducerAddress+"/s", "1").wantLimit(t, 503)
		batch := s.post("/write-batch", `{"channels":["`+b.ProducerAddress+`"],"messages":[{"streamId":"s","body":1}]}`)
		if !strings.Contains(batch.body, "LIMIT_REACHED") {
			t.Errorf("batch: %s", batch.body)
		}
		ingest := s.do(http.MethodPost, "/write", http.Header{"Content-Type": {"application/x-ndjson"}},
			strings.NewReader(`{"channel":"`+b.ProducerAddress+`","streamId":"s","body":1}`))
		if !strings.Contains(ingest.body, "LIMIT_REACHED") {
			t.Errorf("ingest: %s", ingest.body)
		}
		s.wantMetrics(map[string]float64{
			`limit_refusals_total{limit="max_memory"}`: 3, `messages_refused_total{reason="memory_full"}`: 3,
		})
	})
}

// TestChannelsPerClient: clients are told apart by what a trusted proxy reports, and only then.
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
		create(s, "2001:db8::2").wantLimit(t, 429) // the same network
		create(s, "192.0.2.3").wantLimit(t, 429)   // in another notation
		s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_channels_per_client"}`: 7, "channels": 10})
	})
	t.Run("without", func(t *testing.T) {
		s := serve(t, settings, "megaphone")
		create(s, "192.0.2.1")
		create(s, "192.0.2.2")
		create(s, "192.0.2.3").wantLimit(t, 429)
	})
	t.Run("over a reload that changes the limit", func(t *testing.T) {
		s := serve(t, settings, "megaphone")
		s.create()
		s.create()
		if err := s.load(strings.Replace(settings, "2", "3", 1), "megaphone"); err != nil {
			t.Fatal(err)
		}
		s.create()
		create(s, "").wantLimit(t, 429)
	})
}

// TestWebhookConfigurations that cannot be told as wrong before they are loaded.
func TestWebhookConfigurations(t *testing.T) {
	s := serve(t, "megaphone", "megaphone")
	t.Setenv("WEBHOOK_HOST", "a.example")
	const hooks = "webhook channel_deleted https://a.example/\nwebhook channel_deleted https://{env.WEBHOOK_HOST}/\n"
	if err := s.load("megaphone {\n"+hooks+"}", "megaphone"); err == nil || !strings.Contains(err.Error(), "another webhook posts channel_deleted to the same URL") {
		t.Errorf("a webhook that is there twice: %v", err)
	}
	if err := s.load("megaphone {\nwebhook channel_deleted {env.NOT_SET_ANYWHERE}\n}", "megaphone"); err == nil {
		t.Error("a webhook without a URL is loaded")
	}
	t.Setenv("WEBHOOK_SECRET", hookSecret)
	page := docBlock(t, "webhooks.md", "webhook channel_deleted")
	page = strings.TrimSuffix(strings.TrimPrefix(page, "{\n"), "}\n")
	if err := s.load(page, "megaphone"); err != nil {
		t.Errorf("what docs/webhooks.md shows: %v", err)
	}
}

// TestLimitRefusalsOfAnIngestAreAllCounted, not only those that its result lists.
func TestLimitRefusalsOfAnIngestAreAllCounted(t *testing.T) {
	s := serve(t, "megaphone {\nmax_memory 1000\nhold 0s\n}", "megaphone")
	s.write(s.create(), `"`+strings.Repeat("x", 1000)+`"`)
	const n = broker.MaxIngestFailures + 100
	var lines strings.Builder
	for range n {
		fmt.Fprintf(&lines, `{"channel":%q,"streamId":"s","body":1}`+"\n", s.create().ProducerAddress)
	}
	s.do(http.MethodPost, "/write", http.Header{"Content-Type": {"application/x-ndjson"}}, strings.NewReader(lines.String()))
	s.wantMetrics(map[string]float64{
		`limit_refusals_total{limit="max_memory"}`: n, `messages_refused_total{reason="memory_full"}`: n,
	})
}

package integration

import (
	"net/http"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestIdleHTTP2ReadersHaveSmallStacks opens reads over HTTP/2, which keep their handler and its stack. Go doubles a stack
// that is too small, and a waiting reader keeps the large one. With Caddy and net/http below it, a read has to be thrifty
// to stay within 8 KiB (see serveRead).
func TestIdleHTTP2ReadersHaveSmallStacks(t *testing.T) {
	t.Parallel()
	const readers, small = 200, 8 << 10
	s, c, address := startTCP(t, "servers {\nprotocols h1 h2c\n}", "megaphone")
	over2 := &http.Client{Transport: tcpTransport((*http.Protocols).SetUnencryptedHTTP2)(t, address, nil)}
	admin := testserver.UnixClient(t, s.Socket("admin"))
	stacks := func() float64 {
		fetch(t, admin, "http://localhost/debug/pprof/heap?gc=1") // shrinks the stacks that can shrink
		return metric(t, fetch(t, admin, "http://localhost/metrics"), "go_memstats_stack_inuse_bytes")
	}
	for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
		channels := make([]channel, readers)
		for i := range channels {
			channels[i] = c.create()
		}
		before := stacks()
		for _, ch := range channels {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/read/"+ch.ConsumerAddress, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", accept)
			response, err := over2.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
				t.Fatalf("%s over %s", response.Status, response.Proto)
			}
		}
		each := (stacks() - before) / readers
		if t.Logf("%s: %.0f bytes", accept, each); each > 1.5*small {
			t.Errorf("an idle reader of %s has a stack of %.0f bytes, want %d", accept, each, small)
		}
	}
}

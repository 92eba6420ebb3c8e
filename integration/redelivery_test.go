//go:build unix

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// inFlight returns how many messages of a channel are in flight once nobody reads it.
func (c *client) inFlight(of channel) int {
	c.tb.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var state struct {
			Connected         bool
			InFlight, Pending int
		}
		if err := json.Unmarshal(fetch(c.tb, c.http, c.base+"/channel/"+of.ConsumerAddress), &state); err != nil {
			c.tb.Fatal(err)
		}
		if !state.Connected {
			return state.InFlight
		}
	}
	c.tb.Fatal("the read does not end")
	return 0
}

// writeLarge writes messages 0, 1, 2 … of some size.
func (c *client) writeLarge(to channel, count, size int) {
	c.tb.Helper()
	for i := range count {
		c.write(to, fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", size)))
	}
}

// wantLarge reads to the end of a read, and checks that it brings the messages that writeLarge has written, and no other.
func (r *tcpRead) wantLarge(t *testing.T, count int) {
	t.Helper()
	for i := 0; ; i++ {
		line, err := r.lines.ReadBytes('\n')
		if err != nil && len(line) == 0 && i == count {
			return
		}
		var m message
		if e := json.Unmarshal(line, &m); err != nil || e != nil || !strings.HasPrefix(string(m.Body), fmt.Sprintf(`"%d `, i)) {
			t.Fatalf("message %d of %d is %.100q: %v", i, count, line, err)
		}
	}
}

// TestNDJSONBehindAProxyLosesNothing has a reader behind a proxy that takes everything in the client's stead. The read
// ends cleanly, as the server sees it. Then the proxy is killed.
func TestNDJSONBehindAProxyLosesNothing(t *testing.T) {
	t.Parallel()
	s, proxy := testserver.New(t), testserver.New(t)
	c := startSite(t, s, "megaphone {\nread_duration 2s\n}", "megaphone create write read exists manage {\nndjson_redelivery\n}")
	port := testserver.FreePort(t)
	front := tcpSite(port, "reverse_proxy unix/"+s.Socket("site"))
	proxy.Start("", front)
	address := fmt.Sprintf("127.0.0.1:%d", port)

	const messages = 14
	ch := c.create()
	c.writeLarge(ch, messages, 50_000)
	stalls := openTCPRead(t, address, ch)
	if n := c.inFlight(ch); n != messages {
		t.Fatalf("%d messages are in flight, want all %d", n, messages)
	}
	proxy.Signal(syscall.SIGKILL)
	awaitExit(t, proxy)
	stalls.conn.Close()
	proxy.Start("", front)

	// The client comes back without a cursor, and gets everything.
	openReadOver(t, address, ch, false, 1<<20).wantLarge(t, messages)
	if n := c.inFlight(ch); n != 0 {
		t.Errorf("%d messages are in flight, although two reads have brought them", n)
	}
}

// TestRedeliveryGoesOnBeyondTheWindow has an existing client behind a proxy and many messages. Each read brings no more
// than the window holds, and the client, which drops repeats, gets them all.
func TestRedeliveryGoesOnBeyondTheWindow(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	c := startSite(t, s, "megaphone {\nin_flight 4\nbuffer 25\nread_duration 30s\n}", "megaphone create write read exists manage {\nndjson_redelivery\n}")
	ch := c.create()
	const messages = 25
	for i := range messages {
		c.write(ch, fmt.Sprint(i))
	}
	seen, reads := map[string]bool{}, 0
	for ; len(seen) < messages-1; reads++ { // the last message may be the only one that the last read would wait for
		lines := strings.Split(strings.TrimSpace(string(fetch(t, c.http, c.base+"/read/"+ch.ConsumerAddress))), "\n")
		if len(lines) > 4 {
			t.Fatalf("a read brought %d messages, want 4 at most", len(lines))
		}
		for _, line := range lines {
			var m message
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			seen[m.EID] = true
		}
		if reads > 2*messages {
			t.Fatalf("after %d reads, the client has %d of %d messages", reads, len(seen), messages)
		}
	}
}

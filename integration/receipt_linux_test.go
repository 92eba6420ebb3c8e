package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Plain readers do not know cursors. So the server may only release messages that have reached the reader's machine
// (protocol.md 2.1).

// flood writes numbered messages of about a kilobyte as fast as it can, until the server holds and then refuses them.
// It returns how many the server has accepted.
func (n *network) flood(tb testing.TB, ch channel) int {
	tb.Helper()
	var number, accepted atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				body := fmt.Sprintf(`{"n":%d,"text":%q}`, number.Add(1), strings.Repeat("x", 1000))
				if status := n.write(tb, ch, body); status != http.StatusCreated {
					if status != http.StatusServiceUnavailable {
						tb.Errorf("write: %d", status)
					}
					return
				}
				accepted.Add(1)
			}
		})
	}
	all.Wait()
	return int(accepted.Load())
}

func TestAStalledPlainReaderLosesNothing(t *testing.T) {
	const capacity = 100 + 100 // buffer and window
	for name, connection := range plainConnections {
		for end, test := range map[string]struct {
			settings string // with a write_timeout longer than awaitFree waits, the channel does not wait for it
			resets   bool
			reason   string
		}{
			"is reset":                           {"write_timeout 10m", true, "broken"},
			"is cut off":                         {"write_timeout 1s", false, "broken"},
			"ends cleanly without its knowledge": {"write_timeout 10m\nread_duration 5s", false, "complete"},
		} {
			t.Run(name+" "+end, func(t *testing.T) {
				t.Parallel()
				n := newNetwork(t, "hold 300ms\n"+test.settings)
				ch := n.create(t)
				l := n.stalledReader(t, ch, connection)
				accepted := n.flood(t, ch)
				// Buffer and window hold capacity messages. All other accepted messages must be on the client's
				// machine, which may not lose them.
				unread := l.unread(t)
				most := unread/1000 + 1
				if accepted < capacity || accepted > capacity+most {
					t.Errorf("the server accepted %d messages, but the client's machine has only %d bytes", accepted, unread)
				}
				if test.resets {
					l.reset()
				}
				v := newView()
				n.awaitFree(t, ch)
				n.pollAll(t, ch, v)
				if missing := accepted - len(v.bodies); missing > most {
					t.Errorf("%d of %d messages are missing; at most %d can be on the client's machine", missing, accepted, most)
				}
				// The channel is free, but the end of the response may still wait for room in the socket.
				if !test.resets {
					l.reset()
				}
				n.Await("the log says that the read is "+test.reason, func() bool {
					return strings.Contains(n.Log(), fmt.Sprintf(`"transport":"ndjson","reason":%q`, test.reason))
				})
			})
		}
	}
}

// TestMultipathTCPLosesNothing has a reader over Multipath TCP that takes nothing until its read has ended, and then
// vanishes. Another one takes everything.
func TestMultipathTCPLosesNothing(t *testing.T) {
	t.Parallel()
	_, c, address := startTCP(t, "megaphone {\nread_duration 2s\n}", "megaphone create write read exists manage")
	const messages = 14
	ch := c.create()
	c.writeLarge(ch, messages, 8000)
	stalls := openReadOver(t, address, ch, true, 4096)
	if multipath, err := stalls.conn.MultipathTCP(); err != nil || !multipath {
		t.Skip("this system has no Multipath TCP")
	}
	if n := c.inFlight(ch); n != messages {
		t.Errorf("%d messages are in flight, want all %d", n, messages)
	}
	stalls.conn.Close()
	openReadOver(t, address, ch, true, 1<<20).wantLarge(t, messages)
	if n := c.inFlight(ch); n != 0 {
		t.Errorf("%d messages are in flight, although the client has read to the end", n)
	}
}

// TestACleanEndSettlesWhatArrived has readers that take everything, by each way to connect. There is nothing for the next.
func TestACleanEndSettlesWhatArrived(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "read_duration 300ms")
	for name, connection := range plainConnections {
		client, url := n.linkClient(t, connection.http2), n.http
		if connection.secure {
			url = n.https
		}
		ch := n.create(t)
		n.writeMany(t, ch, 50)
		if got := bytes.Count(fetch(t, client.Client, url+"/read/"+ch.ConsumerAddress), []byte("\n")); got != 50 {
			t.Errorf("%s: the read brought %d messages, want 50", name, got)
		}
		if again := fetch(t, n.producer, n.http+"/read/"+ch.ConsumerAddress+"?poll=0"); len(again) > 0 {
			t.Errorf("%s: the next reader is sent %.200q again", name, again)
		}
	}
}

// awaitFree waits until the channel has no reader.
func (n *network) awaitFree(tb testing.TB, ch channel) {
	tb.Helper()
	n.Await("the channel is free", func() bool {
		response := open(tb, n.producer, n.http+"/read/"+ch.ConsumerAddress+"?poll=0")
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// unread returns how many bytes the client's machine has received and the client has not read.
func (l *link) unread(tb testing.TB) (n int) {
	tb.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); err != nil {
		tb.Fatal(err)
	}
	return n
}

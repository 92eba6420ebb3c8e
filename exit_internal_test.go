package megaphone

import (
	"encoding/binary"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// TestTheWaitsOfTheExitShareTheirTime checks that all waits of the exit together take less than a second, although they
// come one after the other.
func TestTheWaitsOfTheExitShareTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(memory.New())
		time.Sleep(time.Minute)
		r.Close()
		began := time.Now()
		for _, limit := range []time.Duration{maxExitEvents, maxExitWrites, webhook.MaxExitLinger} {
			time.Sleep(r.exitTime(limit))
		}
		if took := time.Since(began); took < maxExitWrites || took >= time.Second {
			t.Errorf("the exit takes %v, want %v to 1s", took, maxExitWrites)
		}
	})
}

// TestExitWaitsForWebSockets checks that the exit of the process waits for the clients of WebSockets, but not for ever.
func TestExitWaitsForWebSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeServer(t)
		client := s.get("/read/"+s.channel.Consumer, upgrade...)
		s.skipHeader(client)
		synctest.Wait()
		r := s.handler.app.registry
		r.Close()

		// The close frame says that the server goes away (RFC 6455, 7.4.1). The client closes the connection.
		start := time.Now()
		var header [2]byte
		if _, err := io.ReadFull(client, header[:]); err != nil || header[0] != 0x88 {
			t.Fatalf("frame %x, %v", header, err)
		}
		reason := make([]byte, header[1])
		if _, err := io.ReadFull(client, reason); err != nil || binary.BigEndian.Uint16(reason) != 1001 {
			t.Errorf("close frame %q, %v", reason, err)
		}
		time.AfterFunc(maxExitWrite/2, func() { client.Close() })
		r.awaitSockets()
		if took := time.Since(start); took < maxExitWrite/2 || took > maxExitWrite-10*time.Millisecond {
			t.Errorf("the exit waited for %v, want %v", took, maxExitWrite/2)
		}

		// This client never closes its connection.
		r.sockets.Add(1)
		start = time.Now()
		r.awaitSockets()
		if took := time.Since(start); took != maxExitWrite {
			t.Errorf("the exit waited for %v, want %v", took, maxExitWrite)
		}
	})
}

package disk

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestASmallDisk fills a real disk: MEGAPHONE_SMALL_DISK is an empty folder on a file system of some MB, such as a tmpfs.
func TestASmallDisk(t *testing.T) {
	path := os.Getenv("MEGAPHONE_SMALL_DISK")
	if path == "" {
		t.Skip("set MEGAPHONE_SMALL_DISK to an empty folder on a small file system")
	}
	b := Open(Options{Path: path, segment: 1 << 20})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := brokerfixture.Limits
	l.Buffer = 1 << 30
	a, err := b.Create(t.Context(), "agent", l)
	if err != nil {
		t.Fatal(err)
	}
	written := 0
	for err == nil && written < 10_000_000 {
		if err = b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l); err == nil {
			written++
		}
	}
	if !errors.Is(err, broker.ErrStorage) || b.Healthy() == nil {
		t.Fatalf("after %d messages: error %v, health %v", written, err, b.Healthy())
	}
	t.Logf("full after %d messages: %v", written, b.Healthy())

	// Reading makes room, and then the Broker takes writes by itself.
	s, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l, Acknowledged: true})
	if err != nil {
		t.Fatal(err)
	}
	for left := written; left > 10; {
		ms, _ := s.Take(nil, 64<<10)
		if len(ms) == 0 || !s.Settle(ms[len(ms)-1].ID()) {
			t.Fatal("the reader gets nothing")
		}
		left -= len(ms)
		written = left
	}
	s.End(broker.EndFault)
	for start := time.Now(); b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l) != nil; time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("the Broker does not recover: %v", b.Healthy())
		}
	}
	b.Close()
	again := Open(Options{Path: path, segment: 1 << 20})
	defer again.Close()
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state, err := again.State(t.Context(), a.Consumer); err != nil || state.Pending+state.InFlight != written+1 {
		t.Errorf("the channel has %+v, want %d messages; error %v", state, written+1, err)
	}
}

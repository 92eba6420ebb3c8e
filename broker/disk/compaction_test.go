package disk

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestNoMessageIsRemovedBeforeItsEndIsDurable: after a loss of power, messages that were settled may come again, but none is
// missing. So a cursor that shows the last one leaves no gap.
func TestNoMessageIsRemovedBeforeItsEndIsDurable(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Disk)
		o := broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true}
		settle := func(n int) (last *broker.Message) {
			s, err := f.broker.Subscribe(t.Context(), f.a.Consumer, o)
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				ms, _ := s.Take(nil, 1)
				last = ms[0]
				s.Settle(last.ID())
			}
			s.End(broker.EndFault)
			return last
		}
		for f.head() < 3 {
			f.write(nil)
		}
		settle(len(f.lines) - 10) // those left are in the second segment, and the channel moves to the third
		time.Sleep(untilSynced)
		written := len(f.lines)
		for f.head() < 4 {
			f.write(nil)
		}
		time.Sleep(untilSynced + retryInterval/2) // the next compaction comes before the next sync
		if first := f.broker.log.sealed[0].sequence; first != 2 {
			t.Fatalf("the first segment is %d", first)
		}
		last := settle(10 + len(f.lines) - written)
		time.Sleep(retryInterval)
		f.folder.mu.Lock()
		image := f.folder.durableImage(nil)
		f.folder.mu.Unlock()
		if image[segmentName(2)] != nil {
			t.Fatal("the segment is not removed")
		}
		report, err := check(t.Context(), folderOf(image), nil)
		if err != nil || report.Missing != 0 {
			t.Errorf("%d messages are missing; error %v", report.Missing, err)
		}
		again := openTest(t, folderOf(image), Disk)
		defer again.Close()
		o.After = last.ID().String()
		if s, err := again.Subscribe(t.Context(), f.a.Consumer, o); err != nil || s.Resume() != broker.ResumeComplete {
			t.Errorf("the cursor leaves a gap; error %v", err)
		}
	})
}

// A lookCounter counts how often a journal takes the lock of a channel to look at it.
type lookCounter struct {
	journal.Engine

	looks atomic.Int64
}

func (c *lookCounter) Look(id journal.ID, f func(journal.Locked)) bool {
	c.looks.Add(1)
	return c.Engine.Look(id, f)
}

// TestCompactionLeavesABusyChannelAlone: it takes a channel's lock for what the channel still needs, not for each message that was
// settled long ago.
func TestCompactionLeavesABusyChannelAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := Open(Options{segment: smallSegment, folder: &testFolder{}})
		defer b.Close()
		counter := &lookCounter{Engine: b.log.engine}
		b.log.engine = counter
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		deliver := deliverer(t, b, 500)
		oldest := func() (n uint64) {
			b.log.locked(func() {
				if len(b.log.sealed) > 0 {
					n = b.log.sealed[0].sequence
				}
			})
			return n
		}
		delivered := int64(0)
		for ; oldest() < 10; delivered++ {
			deliver()
			if delivered%100 == 0 {
				time.Sleep(retryInterval)
			}
		}
		if looks := counter.looks.Load(); looks == 0 || looks > delivered/10 {
			t.Errorf("compaction has looked %d times at a channel that had %d messages", looks, delivered)
		}
	})
}

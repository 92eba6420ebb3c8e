package disk

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestADiskThatFailsForLongIsNotFilled: the journal tries to begin anew now and then, and each attempt takes the place of the one
// before. So there is room once the disk works again.
func TestADiskThatFailsForLongIsNotFilled(t *testing.T) {
	for operation, limit := range map[string]int64{"sync": 8 * smallSegment, "write": 0, "sync folder": 0} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFaulty(t, Process)
				f.broker.Configure(Settings{MaxDisk: limit})
				for range 200 { // more than a segment
					f.write(nil)
				}
				time.Sleep(untilSynced)
				before := len(f.folder.content())
				var creates atomic.Int32
				f.folder.failWith(func(o, _ string) error {
					if o == "create" && creates.Add(1) > 1000 {
						return syscall.ENOSPC // or else an endless loop would keep the bubble's time from going on
					}
					if o == operation {
						return syscall.EIO
					}
					return nil
				})
				f.broker.log.locked(func() { f.broker.log.breakDown(syscall.EIO) })
				const attempts = 60
				time.Sleep(attempts * retryInterval)
				if n := creates.Load(); n < attempts-1 || n > 4*attempts { // each has up to three segments, and prepares one more
					t.Errorf("%d segments were made in %d attempts", n, attempts)
				}
				// Between two attempts there is nothing of them, unless the disk does not even remove a file.
				if n := len(f.folder.content()); n > before && (operation != "sync folder" || n > before+1) {
					t.Errorf("there are %d files, and there were %d before", n, before)
				}
				f.recovers()
			})
		})
	}
}

// TestAttemptsToBeginAnewCostLittle, however long the disk fails: it costs the more the later it fails.
func TestAttemptsToBeginAnewCostLittle(t *testing.T) {
	// There is room for 60 attempts. All that lives is some 200 records, of which half is in the first segment.
	for at, limit := range map[string]int{"the first sync": 60, "a later sync": 8 * 210, "the second segment": 8 * 120} {
		t.Run(at, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFaulty(t, Process)
				for range 200 { // more than a segment
					f.write(nil)
				}
				time.Sleep(untilSynced)
				var mu sync.Mutex
				done := map[string]int{}
				f.folder.failWith(func(o, _ string) error {
					mu.Lock()
					defer mu.Unlock()
					done[o]++
					switch {
					case at == "the first sync" && o == "sync",
						at == "a later sync" && o == "sync" && done["sync"]%2 == 0,
						at == "the second segment" && o == "create" && done["create"]%2 == 0:
						return syscall.EIO
					}
					return nil
				})
				f.broker.log.locked(func() { f.broker.log.breakDown(syscall.EIO) })
				time.Sleep(30*time.Second - retryInterval/2) // not at the moment of an attempt
				mu.Lock()
				if n := done["write"]; n > limit || n < 20 {
					t.Errorf("%d records were written", n)
				}
				mu.Unlock()
				f.recovers()
			})
		})
	}
}

// TestWhatADroppedAttemptHadIsWrittenAgain: a channel that has expired during a fault does not come back, even if old segments are
// still there when the process is killed.
func TestWhatADroppedAttemptHadIsWrittenAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		l := brokerfixture.Limits
		l.ChannelTTL = untilSynced + retryInterval
		gone, err := f.broker.Create(t.Context(), "agent", l)
		if err != nil {
			t.Fatal(err)
		}
		f.write(nil)
		time.Sleep(untilSynced)
		var syncs atomic.Int32
		f.folder.failWith(func(o, _ string) error {
			switch o {
			case "sync":
				if syncs.Add(1) < 8 {
					return syscall.EIO
				}
			case "remove":
				if syncs.Load() >= 8 {
					return errors.New("not now") // the old segments stay
				}
			}
			return nil
		})
		f.broker.log.locked(func() { f.broker.log.breakDown(syscall.EIO) })
		time.Sleep(retryInterval + 2*time.Second) // which is when the Broker looks for expired channels
		if _, err := f.broker.State(t.Context(), gone.Consumer); !errors.Is(err, broker.ErrNotFound) || syncs.Load() >= 8 {
			t.Fatalf("after %d syncs, the channel: error %v", syncs.Load(), err)
		}
		time.Sleep(20 * retryInterval)
		if err := f.broker.Healthy(); err != nil || syncs.Load() < 8 {
			t.Fatalf("after %d syncs, the health is %v", syncs.Load(), err)
		}
		again := openTest(t, folderOf(f.folder.content()), Process)
		defer again.Close()
		f.has(again)
		if _, err := again.State(t.Context(), gone.Consumer); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("the channel that was deleted: error %v", err)
		}
	})
}

// TestDamageFromBeforeAFaultCountsForNothing also if it is not in the last segment that was given up: it may never have been durable,
// and all that lived was written again.
func TestDamageFromBeforeAFaultCountsForNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		synctest.Wait() // the first segment is synced when it begins
		l := f.broker.log
		l.keeping.Lock() // as while a backup is made: no segment is removed
		defer l.keeping.Unlock()
		failed := false
		f.folder.failWith(func(o, _ string) error {
			if o == "sync" && !failed { // of the first segment, when it is sealed
				failed = true
				return syscall.EIO
			}
			return nil
		})
		for sequence := uint64(1); sequence == 1; l.locked(func() { sequence = l.head.sequence }) {
			f.write(nil)
		}
		time.Sleep(untilSynced)
		synctest.Wait()
		if err := f.broker.Healthy(); err != nil || !failed || l.sealed[0].sequence != 1 || l.head.sequence < 3 {
			t.Fatalf("the first segment is %d, and the head is %d; the health is %v", l.sealed[0].sequence, l.head.sequence, err)
		}
		image := f.folder.content()
		clear(image[segmentName(1)][smallSegment/2:])
		again := openTest(t, folderOf(image), Process)
		defer again.Close()
		f.has(again)
	})
}

// TestABatchThatIsNotDurableIsNotAccepted, neither where all of it has room, nor where a part of it is refused.
func TestABatchThatIsNotDurableIsNotAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Disk)
		synctest.Wait()
		other, err := f.broker.Create(t.Context(), "agent", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		l := brokerfixture.Limits
		l.Buffer, l.Hold = 2, 0
		publish(t, f.broker, []string{other.Producer}, brokerfixture.Message(t))
		f.folder.failWith(func(o, _ string) error {
			if o == "sync" {
				return syscall.EIO
			}
			return nil
		})
		ms := []*broker.Message{brokerfixture.Message(t), brokerfixture.Message(t)}
		for i, outcome := range f.broker.PublishBatch(t.Context(), []string{f.a.Producer, other.Producer}, ms, l) {
			if outcome.Accepted != 0 || !errors.Is(outcome.Err, broker.ErrOutcomeUnknown) {
				t.Errorf("channel %d: %d messages are accepted, error %v", i+1, outcome.Accepted, outcome.Err)
			}
		}
		f.folder.failWith(nil)
	})
}

// TestNothingIsDurableBeforeAllIsWrittenAgain: while the log begins anew, what was there before the fault may not be durable yet. So a
// call that waits for that waits until the end.
func TestNothingIsDurableBeforeAllIsWrittenAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Disk)
		f.folder.failWith(func(o, _ string) error {
			if o == "prepare" {
				return syscall.EIO
			}
			return nil
		})
		l := f.broker.log
		l.locked(func() {
			l.breakDown(syscall.EIO)
			l.renewing = true // as if there were much to write
		})
		commit := l.Barrier()
		time.Sleep(untilSynced)
		if commit.IsDurable() {
			t.Error("it is durable already")
		}
		l.locked(func() { l.renewing = false })
		f.folder.failWith(nil)
		time.Sleep(2 * retryInterval)
		if !commit.IsDurable() {
			t.Errorf("it is not durable: error %v", commit.Wait(t.Context()))
		}
	})
}

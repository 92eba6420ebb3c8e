package disk

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// takes returns how long f takes.
func takes(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

// logs makes the Broker log to the returned log.
func (f *faulty) logs() *testserver.Log {
	text := &testserver.Log{}
	logger := text.Logger()
	f.broker.options.Logger = func() *slog.Logger { return logger }
	return text
}

// head returns the place of the head in the sequence.
func (f *faulty) head() uint64 { return headOf(f.broker) }

// hasAgain checks that the channel has all messages after the process was killed.
func (f *faulty) hasAgain() {
	f.Helper()
	again := openTest(f, folderOf(f.folder.content()), Process)
	defer again.Close()
	f.has(again)
}

// TestASyncThatHangs: a write that waits for it gets its outcome in time, later ones are refused at once, and what is durable is
// delivered. When the disk answers, the Broker goes on, and nothing is written again.
func TestASyncThatHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Disk)
		text := f.logs()
		f.write(nil)
		synctest.Wait()
		release := f.folder.hang("sync")
		defer release()
		if took := takes(func() { f.write(broker.ErrOutcomeUnknown) }); took != journal.MaxCommit {
			t.Errorf("the write takes %v", took)
		}
		synctest.Wait()
		took := takes(func() {
			f.write(broker.ErrStorage)
			if err := f.broker.Delete(t.Context(), f.a.Producer); !errors.Is(err, broker.ErrStorage) {
				t.Errorf("delete fails with %v", err)
			}
			f.seesOnly(1)
		})
		if took > 0 {
			t.Errorf("a write that is refused takes %v", took)
		}
		if err := f.broker.Healthy(); !errors.Is(err, errStalled) {
			t.Errorf("the health is %v", err)
		}
		sequence := f.head()
		release()
		synctest.Wait()
		if err := f.broker.Healthy(); err != nil {
			t.Fatalf("the Broker does not recover: %v", err)
		}
		f.write(nil)
		f.seesOnly(3)
		f.hasAgain()
		if strings.Count(text.String(), "does not answer for 10s") != 1 || strings.Count(text.String(), "answers again") != 1 || f.head() != sequence {
			t.Errorf("the log has %s", text)
		}
	})
}

// TestASyncThatHangsHoldsUpNoProcess: with the durability process, writes go on.
func TestASyncThatHangsHoldsUpNoProcess(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		text := f.logs()
		release := f.folder.hang("sync")
		defer release()
		for range 2 * int(stallTime/time.Second) {
			f.write(nil)
			time.Sleep(time.Second)
		}
		if err := f.broker.Healthy(); err != nil || strings.Count(text.String(), "does not answer for 10s") != 1 {
			t.Errorf("the health is %v; the log has %s", err, text)
		}
		release()
		synctest.Wait()
		f.has(f.broker)
	})
}

// TestCloseDoesNotWaitForADiskThatHangs, whatever the Broker was about to do, nor does a write. Nothing is lost.
func TestCloseDoesNotWaitForADiskThatHangs(t *testing.T) {
	for _, operation := range []string{"sync", "create", "sync folder", "open", "remove"} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFaulty(t, Disk)
				text := f.logs()
				f.write(nil)
				old, err := f.broker.Create(t.Context(), "agent", brokerfixture.Limits)
				if err != nil {
					t.Fatal(err)
				}
				l := brokerfixture.Limits
				l.Buffer = 1 << 20
				for n := 0; f.head() < 6; n++ { // so there is something to compact
					if err := f.broker.Publish(t.Context(), old.Producer, brokerfixture.Message(t), l); err != nil {
						t.Fatal(err)
					}
				}
				producers := []string{f.a.Producer}
				for range 100 { // each waits with the lock of its channel held
					a, err := f.broker.Create(t.Context(), "agent", l)
					if err != nil {
						t.Fatal(err)
					}
					producers = append(producers, a.Producer)
				}
				time.Sleep(untilSynced)
				release := f.folder.hang(operation)
				defer release()
				if err := f.broker.Delete(t.Context(), old.Producer); err != nil && operation != "sync" {
					t.Fatal(err)
				}
				if operation == "sync folder" {
					f.broker.log.locked(func() { f.broker.log.breakDown(syscall.EIO) })
				}
				var writes sync.WaitGroup
				for _, producer := range producers { // which need another segment
					writes.Go(func() {
						err := f.broker.Publish(t.Context(), producer, large(t), l)
						if err == nil || errors.Is(err, broker.ErrOutcomeUnknown) || errors.Is(err, broker.ErrStorage) || errors.Is(err, broker.ErrClosed) {
							return
						}
						t.Errorf("a write fails with %v", err)
					})
				}
				time.Sleep(retryInterval)
				synctest.Wait()
				took := takes(func() {
					f.broker.Close()
					writes.Wait()
				})
				if late := strings.Count(text.String(), "close the journal: the disk does not answer for 2s"); late != 1 || took != maxClose {
					t.Errorf("Close and what waits take %v; the log has %s", took, text)
				}
				image := f.folder.content()
				release()
				<-f.broker.ended
				for _, image := range []map[string][]byte{image, f.folder.content()} {
					again := openTest(t, folderOf(image), Process)
					if ms, err := again.Peek(t.Context(), f.a.Consumer, 1); err != nil || len(ms) != 1 || string(ms[0].Line()) != f.lines[0] {
						t.Errorf("there are %d messages, error %v", len(ms), err)
					}
					again.Close()
				}
			})
		})
	}
}

// large returns a message of 1 KB.
func large(tb testing.TB) *broker.Message {
	tb.Helper()
	m, err := broker.NewMessage("stream", []byte(`"`+strings.Repeat("x", 1000)+`"`), "")
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// TestASegmentThatHangs: whoever needs it holds the lock of a channel, so it does not wait for long. What needs none goes on.
func TestASegmentThatHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		f.write(nil)
		synctest.Wait()
		release := f.folder.hang("create")
		defer release()
		l := brokerfixture.Limits
		l.Buffer = 1 << 20
		var err error
		took := takes(func() {
			for n := 0; err == nil && n < 10_000; n++ {
				m := large(t)
				if err = f.broker.Publish(t.Context(), f.a.Producer, m, l); err == nil {
					f.lines = append(f.lines, string(m.Line()))
				}
			}
		})
		if !errors.Is(err, broker.ErrStorage) || took > stallTime {
			t.Fatalf("after %v, the write fails with %v", took, err)
		}
		took = takes(func() {
			f.write(broker.ErrStorage)
			s, err := f.broker.Subscribe(t.Context(), f.a.Consumer, broker.SubscribeOptions{Limits: l, Acknowledged: true})
			if err != nil {
				t.Fatal(err)
			}
			ms, _ := s.Take(nil, 1)
			s.Settle(ms[0].ID())
			s.End(broker.EndFault)
			f.lines = f.lines[1:]
		})
		if took > 0 || f.broker.Healthy() == nil {
			t.Errorf("calls take %v; the health is %v", took, f.broker.Healthy())
		}
		release()
		synctest.Wait()
		if err := f.broker.Healthy(); err != nil {
			t.Fatalf("the Broker does not recover: %v", err)
		}
		f.write(nil)
		f.hasAgain()
	})
}

// TestADiskThatHangsDuringAFault holds up nobody: to begin anew happens beside the writes.
func TestADiskThatHangsDuringAFault(t *testing.T) {
	for _, operation := range []string{"prepare", "create", "sync folder", "remove"} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFaulty(t, Process)
				f.write(nil)
				time.Sleep(retryInterval)
				release := f.folder.hang(operation)
				defer release()
				f.broker.log.locked(func() { f.broker.log.breakDown(syscall.EIO) })
				synctest.Wait()
				took := takes(func() {
					f.write(broker.ErrStorage)
					f.seesOnly(1) // which begins and ends a read
				})
				if took > 0 {
					t.Errorf("calls take %v", took)
				}
				release()
				time.Sleep(retryInterval)
				synctest.Wait()
				if err := f.broker.Healthy(); err != nil {
					t.Fatalf("the Broker does not recover: %v", err)
				}
				f.write(nil)
				f.has(f.broker)
			})
		})
	}
}

// TestABackupEndsWithItsCall also if the disk does not answer.
func TestABackupEndsWithItsCall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		release := f.folder.hang("sync")
		defer release()
		f.write(nil)
		time.Sleep(untilSynced)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.broker.log.backupErr(ctx, t.TempDir()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		release()
	})
}

func (l *log) backupErr(ctx context.Context, to string) error {
	_, err := l.backup(ctx, to)
	return err
}

package disk

import (
	"bytes"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestCompactionHoldsUpNoWrite measures how long compaction keeps a processor busy with the lock of the log and of a channel
// held, for the largest record that there is: longer than that, no write waits for it.
func TestCompactionHoldsUpNoWrite(t *testing.T) {
	b := Open(Options{Path: t.TempDir()})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l := brokerfixture.Limits
	l.Buffer = 100
	a, err := b.Create(t.Context(), "agent", l)
	if err != nil {
		t.Fatal(err)
	}
	body := append(append([]byte{'"'}, bytes.Repeat([]byte("x"), b.log.maxRecord()-200)...), '"') // one record
	const messages = 80
	for range messages {
		m, err := broker.NewMessage("stream", body, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(t.Context(), a.Producer, m, l); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	head := b.log.head
	c := copier{log: b.log, sequence: head.sequence, data: slices.Clone(head.mem[:head.end]), places: map[int]place{}}
	var took []time.Duration
	_, err = readRecords(c.data, head.sequence, head.end, func(offset int, payload []byte, r *record) bool {
		if r.kind != kindPut {
			return true
		}
		start := threadTime(t)
		ok := c.copy(offset, payload, r)
		took = append(took, threadTime(t)-start)
		return ok
	})
	if err != nil || c.err != nil || len(took) != messages {
		t.Fatalf("%d copies, errors %v, %v", len(took), err, c.err)
	}
	slices.Sort(took)
	longest := took[len(took)-4] // the kernel has counted other work for the thread if only three are longer
	t.Logf("median %v, longest %v, then %v", took[len(took)/2], took[len(took)-1], longest)
	if longest > time.Millisecond {
		t.Errorf("the locks are held for %v", longest)
	}
}

// threadTime returns how long this thread has kept a processor busy.
func threadTime(tb testing.TB) time.Duration {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

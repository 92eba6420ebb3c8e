package delivery

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestReceiptsOfHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newFakeClient()
		http2 := receipts{conn: client, maxUnconfirmed: 1, flushDelay: http2FlushDelay, buffered: http2Buffer}
		r := http2
		wants := func(arrived int) {
			t.Helper()
			if got := r.update(10); got != arrived {
				t.Errorf("%d messages have arrived, want %d", got, arrived)
			}
		}
		// Nothing is queued, but perhaps because nothing is written yet.
		wants(0)
		time.Sleep(http2FlushDelay)
		wants(10)

		// The connection is full. When everything that is queued now has arrived, what was flushed may still wait for room.
		r = http2
		client.written = 1 << 20
		wants(0)
		time.Sleep(http2FlushDelay)
		wants(0)
		client.written, client.acked = 2<<20, 1<<20
		wants(0)
		client.acked += http2Buffer
		wants(10)
	})
}

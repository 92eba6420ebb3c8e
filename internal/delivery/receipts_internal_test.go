package delivery

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// An http2Test is a stream over a connection that other streams use too.
type http2Test struct {
	*testing.T

	client   *fakeClient
	receipts receipts
	message  []*broker.Message
	size     uint64 // of the message
}

func testHTTP2(t *testing.T, test func(*http2Test)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client := newFakeClient()
		m := brokerfixture.Message(t)
		test(&http2Test{
			T: t, client: client, message: []*broker.Message{m}, size: uint64(len(m.Line())),
			receipts: receipts{conn: client, maxUnconfirmed: 1, http2: &http2Writes{conn: client, header: http.Header{}}},
		})
	})
}

// flush sends the n-th message: it is in the connection's buffer then.
func (h *http2Test) flush(n int) {
	h.receipts.http2.before(h.message)
	h.receipts.http2.after(n)
}

// write gives bytes to the socket.
func (h *http2Test) write(bytes uint64) { h.client.written += bytes }

// wants checks how many of the sent messages have arrived.
func (h *http2Test) wants(sent, arrived int) {
	h.Helper()
	if got := h.receipts.update(sent); got != arrived {
		h.Errorf("%d of %d messages have arrived, want %d", got, sent, arrived)
	}
}

func TestOverHTTP2NothingArrivesBeforeItIsWritten(t *testing.T) {
	testHTTP2(t, func(h *http2Test) {
		h.flush(1)
		// Nothing is queued, because nothing is written, however long that may take.
		for range 3 {
			time.Sleep(time.Minute)
			h.wants(1, 0)
		}
		h.write(h.size) // a frame of another stream, or half of ours
		h.wants(1, 0)
		h.write(1 + 9)
		h.client.acked = h.client.written
		h.wants(1, 1)
	})
}

func TestOverHTTP2OtherStreamsWriteAtTheSameMoment(t *testing.T) {
	testHTTP2(t, func(h *http2Test) {
		h.receipts.http2.before(h.message)
		h.write(1 << 20)
		h.receipts.http2.after(1)
		h.client.acked = h.client.written
		h.wants(1, 0)
		time.Sleep(http2Delay)
		h.wants(1, 1)
	})
}

func TestOverHTTP2AFullSocketHoldsTheBuffer(t *testing.T) {
	testHTTP2(t, func(h *http2Test) {
		h.write(1 << 20)
		h.flush(1)
		h.wants(1, 0)
		time.Sleep(http2Delay)
		h.wants(1, 0)
		// What was queued has arrived. The buffer follows it.
		h.write(1 << 20)
		h.client.acked = 1 << 20
		h.wants(1, 0)
		h.client.acked += http2Buffer
		h.wants(1, 1)
	})
}

func TestOverHTTP2MessagesArriveInTheirOrder(t *testing.T) {
	testHTTP2(t, func(h *http2Test) {
		arrived := 0
		for n := range 100 { // one each millisecond, so that the newest is never old enough
			h.flush(n + 1)
			h.write(h.size + 9)
			h.client.acked = h.client.written
			time.Sleep(time.Millisecond)
			arrived = h.receipts.update(n + 1)
		}
		if arrived < 70 || arrived == 100 {
			t.Errorf("%d of 100 messages have arrived", arrived)
		}
	})
}

func TestOverHTTP2CompressedMessagesAreSmaller(t *testing.T) {
	testHTTP2(t, func(h *http2Test) {
		h.receipts.http2.header.Set("Content-Encoding", "zstd")
		h.flush(1)
		time.Sleep(http2Delay)
		h.wants(1, 0)
		h.write(20)
		h.client.acked = h.client.written
		h.wants(1, 1)
	})
}

// unknown makes a delivery one over a connection of which nothing is known.
func (d *deliveryTest) unknown() { d.delivery.receipts = receipts{maxUnconfirmed: 1} }

// deliver delivers until the read ends by its time.
func (d *deliveryTest) deliver(n int) {
	d.Helper()
	d.delivery.duration = time.Second
	d.publish(n)
	d.delivery.Deliver()
	if reason := d.delivery.Reason(); reason != transport.Complete {
		d.Errorf("the read ends as %v", reason)
	}
}

func TestACleanEndOfAnUnknownConnectionSettlesNothing(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.unknown()
		d.deliver(3)
		d.holds(3)
		d.subscribe() // the client reads again: it has seen the end
		d.holds(0)
	})
}

func TestAnUnknownConnectionDoesNotStopAtTheWindow(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.unknown()
		ended := d.run()
		if n := d.publish(20); n != 20 {
			t.Errorf("the channel accepted %d messages, want all 20", n)
		}
		d.holds(3)
		d.leave(ended)
	})
}

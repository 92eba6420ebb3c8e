package delivery

import (
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/conn"
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

func TestRedeliveryEndsAReadAtTheWindow(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.client.acksAtOnce = true
		redeliver := func() {
			d.Helper()
			sub, err := d.broker.Subscribe(t.Context(), d.addresses.Consumer, broker.SubscribeOptions{Limits: d.limits, Redeliver: true})
			if err != nil {
				t.Fatal(err)
			}
			d.delivery = Delivery{
				sub: sub, transport: d.client, receipts: receipts{conn: d.client, maxUnconfirmed: 1},
				duration: time.Hour, writeTimeout: 10 * time.Second, unloaded: d.unloaded, redeliver: true,
			}
		}
		d.delivery.sub.End(broker.EndFault)
		d.publish(4)
		for _, sent := range []int{3, 3, 1} { // what the window holds, the same again, and the rest
			redeliver()
			if sent == 1 {
				d.delivery.duration = time.Second
			}
			start := time.Now()
			d.delivery.Deliver()
			if took := time.Since(start); sent == 3 && took > 0 {
				t.Errorf("the read ends after %v", took)
			}
			if d.delivery.Sent() != sent || d.delivery.Reason() != transport.Complete {
				t.Errorf("the read has sent %d messages and ends as %v, want %d", d.delivery.Sent(), d.delivery.Reason(), sent)
			}
		}
		d.holds(1)
	})
}

// TestRedeliveryWaitsForASlowClient has a client that is slow. Its read ends once it has everything, not before.
func TestRedeliveryWaitsForASlowClient(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.delivery.sub.End(broker.EndFault)
		sub, err := d.broker.Subscribe(t.Context(), d.addresses.Consumer, broker.SubscribeOptions{Limits: d.limits, Redeliver: true})
		if err != nil {
			t.Fatal(err)
		}
		d.delivery.sub, d.delivery.redeliver = sub, true
		d.publish(4)
		ended := d.run()
		for range 3 {
			time.Sleep(time.Second)
			if len(ended) > 0 {
				t.Fatal("the read has ended")
			}
			d.client.acknowledge(100)
		}
		d.endsWithin(ended, transport.Complete, maxCheckPause)
		if how := d.delivery.endOf(transport.Complete); how != broker.EndUnconfirmed {
			t.Errorf("the read ends as %v for the channel", how)
		}
	})
}

// hidden is a connection whose socket nobody finds.
type hidden struct{ net.Conn }

// TestWhatIsKnownOfAConnection checks of which connections the receipts are known, so that a clean end settles.
func TestWhatIsKnownOfAConnection(t *testing.T) {
	t.Parallel()
	dial := func(network, address string) net.Conn {
		listener, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		c, err := net.Dial(network, listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	tcp, unix, linux := dial("tcp", "127.0.0.1:0"), dial("unix", filepath.Join(t.TempDir(), "s")), runtime.GOOS == "linux"
	for name, test := range map[string]struct {
		conn  net.Conn
		http  int
		known bool
	}{
		"HTTP/1.1 over TCP":            {tcp, 1, linux},
		"HTTP/1.1 over TLS":            {tls.Server(tcp, nil), 1, linux},
		"HTTP/1.1 over a Unix socket":  {unix, 1, linux},
		"HTTP/1.1 over something else": {hidden{tcp}, 1, false},
		"HTTP/2 over TLS":              {tls.Server(tcp, nil), 2, linux},
		"HTTP/2 over a Unix socket":    {unix, 2, false}, // nothing tells what was written
		"HTTP/2 over something else":   {hidden{tcp}, 2, false},
		"HTTP/3":                       {nil, 3, false},
	} {
		ctx := t.Context()
		if test.conn != nil {
			ctx = conn.With(ctx, test.conn)
		}
		r := (&http.Request{ProtoMajor: test.http}).WithContext(ctx)
		if rc := newReceipts(r, http.Header{}, 100); rc.known() != test.known || test.known && (rc.http2 != nil) != (test.http == 2) {
			t.Errorf("%s: known is %v, want %v", name, rc.known(), test.known)
		}
	}
}

package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/handover"
)

// WebSocketName is the name of the protocol (protocol.md 2.10).
const WebSocketName = "WEBSOCKET_V1"

// Close codes that say why a read ended (protocol.md 2.4).
const (
	closeBadMessage ws.StatusCode = 4400
	closeDeleted    ws.StatusCode = 4404
	closeTakenOver  ws.StatusCode = 4409
)

// WebSocketOptions say how a WebSocket is served.
type WebSocketOptions struct {
	// Timeout is how long a client may take nothing, or leave a ping unanswered that it has taken. After that, the
	// transport closes the connection.
	Timeout time.Duration
	// Conn is the connection below, which shows what the client takes. It may be nil.
	Conn net.Conn
	// Bare unwraps a connection: it removes the server's wrappers that do nothing any more. It may be nil.
	Bare func(net.Conn) net.Conn
	// Compression offers permessage-deflate (RFC 7692).
	Compression bool
	// Protocol is the subprotocol that [SelectProtocol] has selected; "" is none.
	Protocol string
	// Acknowledge is called for each event that the client acknowledges. A goroutine of the transport calls it.
	Acknowledge func(eventID string)
}

// WebSocket sends events as text messages, and receives acknowledgements (protocol.md 2.4). While neither side sends
// anything, it has no goroutine, where the system allows that.
type WebSocket struct {
	w       http.ResponseWriter
	r       *http.Request
	options WebSocketOptions

	conn       net.Conn // nil before Start
	out        *batchConn
	compressed bool
	err        error // from an Append, for Flush

	listener listener
	parser   parser
	unclear  bool        // the client has sent a message that is not an acknowledgement; later messages are ignored
	failed   atomic.Bool // the client has violated the protocol; what it sends later is ignored

	closeCode atomic.Uint32 // the client has given it; 0 if the client has not closed, or has given none

	gone   signal                 // the client has gone, or has sent something that ends the read
	over   signal                 // the client will send nothing more
	onGone atomic.Pointer[func()] // is called once gone is signaled

	pings int // how many pings were sent
	ping  atomic.Pointer[ping]
}

// A ping is a ping that the client has not answered yet.
type ping struct {
	payload  string
	answered signal
}

// A signal closes its channel at the first call of fire.
type signal struct {
	once sync.Once
	c    chan struct{}
}

func newSignal() signal { return signal{c: make(chan struct{})} }

func (s *signal) fire() { s.once.Do(func() { close(s.c) }) }

// NewWebSocket returns the transport for a request that has passed [IsUpgrade] and [CheckUpgrade].
func NewWebSocket(w http.ResponseWriter, r *http.Request, options WebSocketOptions) *WebSocket {
	return &WebSocket{w: w, r: r, options: options, gone: newSignal(), over: newSignal()}
}

// Start implements [Transport].
func (t *WebSocket) Start() error {
	conn, early, compressed, err := upgrade(t.w, t.r, t.options)
	if err != nil {
		t.gone.fire()
		return err
	}
	started := false
	defer func() {
		if !started { // a panic: net/http does not close a hijacked connection
			_ = conn.Close()
		}
	}()
	t.compressed = compressed
	t.parser = parser{compression: compressed, handle: t.handle}
	hijacked, bare := conn, conn
	if t.options.Bare != nil {
		bare = t.options.Bare(conn)
	}
	socket := handover.Socket(bare)
	if socket != nil {
		conn = socket
	}
	t.out, t.conn = newBatchConn(conn, t.options, t.hangUp), hijacked
	t.listener.conn, t.listener.receive, t.listener.onEnd = conn, t.receive, t.inputEnded
	t.listener.listen(socket, early)
	started = true
	return nil
}

// Detach implements [Detachable]. Start has already hijacked the connection.
func (t *WebSocket) Detach(_ *http.Request, _ net.Conn, gone func()) bool {
	t.w, t.r = nil, nil
	t.onGone.Store(&gone)
	if isClosed(t.gone.c) {
		t.signalGone()
	}
	return true
}

// signalGone signals that the read must end.
func (t *WebSocket) signalGone() {
	t.gone.fire()
	if gone := t.onGone.Swap(nil); gone != nil {
		go (*gone)()
	}
}

// inputEnded signals that the client will send nothing more.
func (t *WebSocket) inputEnded() {
	t.over.fire()
	t.signalGone()
}

// hangUp closes the connection.
func (t *WebSocket) hangUp() {
	t.listener.stop()
	t.inputEnded() // before Close, which may take a moment with TLS
	_ = t.conn.Close()
}

// errAgreed means that the client has sent a close frame.
var errAgreed = errors.New("the client ends the connection")

// receive handles what the client has sent, and reports whether the listener should read more. After a violation it
// should: if something stayed unread, the client's system could keep the client from reading why the connection ends.
func (t *WebSocket) receive(p []byte) (more bool) {
	t.out.read.Add(uint64(len(p)))
	if t.failed.Load() {
		return true
	}
	err := t.parser.parse(p)
	if v, ok := errors.AsType[violation](err); ok {
		t.failed.Store(true)
		t.parser = parser{}
		t.close(v.code, v.reason)
		t.signalGone()
		err = nil
	}
	if t.failed.Load() || errors.Is(err, errAgreed) {
		time.AfterFunc(maxFailing, func() { // a write may be under way, and nobody waits for it any more
			defer guard.Recover(guard.WebSocket)
			t.hangUp()
		})
	}
	return err == nil
}

// handle handles a message or a control frame from the client.
func (t *WebSocket) handle(opcode ws.OpCode, payload []byte) error {
	switch opcode {
	case ws.OpPing:
		t.out.answer(payload)
	case ws.OpPong:
		if p := t.ping.Load(); p != nil && p.payload == string(payload) {
			p.answered.fire()
		}
	case ws.OpClose:
		if len(payload) >= 2 && !t.out.isClosing() { // otherwise the client repeats the server's code
			t.closeCode.Store(uint32(binary.BigEndian.Uint16(payload)))
		}
		t.out.control(ws.OpClose, payload[:min(2, len(payload))])
		return errAgreed
	default:
		if !t.unclear {
			t.handleMessage(opcode, payload)
		}
	}
	return nil
}

// handleMessage handles a message from the client.
func (t *WebSocket) handleMessage(opcode ws.OpCode, payload []byte) {
	var message struct {
		Ack *string `json:"ack"`
	}
	if opcode != ws.OpText || json.Unmarshal(payload, &message) != nil || message.Ack == nil {
		t.unclear = true
		t.close(closeBadMessage, `the message is not {"ack":"<event id>"}`)
		t.signalGone()
		return
	}
	t.options.Acknowledge(*message.Ack)
}

// Append implements [Transport].
func (t *WebSocket) Append(_ uuid.UUID, line []byte) {
	message := bytes.TrimSuffix(line, []byte("\n"))
	if !t.compressed || len(message) < minDeflated {
		t.out.message(message, false)
		return
	}
	var d deflation
	defer d.free()
	err := deflate(&d, message)
	if errors.Is(err, errDeflatedTooLarge) {
		t.out.message(message, false)
		return
	}
	if err != nil && t.err == nil {
		t.err = err
	}
	t.out.message(d.bytes(), true)
}

// Flush implements [Transport].
func (t *WebSocket) Flush() error {
	if err := t.out.flush(); err != nil {
		return err
	}
	return t.err
}

// Heartbeat implements [Transport]. It sends a ping, unless the client still has one to answer. The client answers when
// it has read what was sent before the ping. So a slow client has time to answer as long as it takes something.
func (t *WebSocket) Heartbeat() error {
	t.pings++
	p := &ping{payload: strconv.Itoa(t.pings), answered: newSignal()}
	if !t.ping.CompareAndSwap(nil, p) {
		return nil
	}
	t.out.control(ws.OpPing, []byte(p.payload))
	guard.Go(guard.WebSocket, func() {
		defer t.ping.Store(nil)
		t.out.watch(p.answered.c, t.over.c, t.hangUp)
	}, t.hangUp)
	return nil
}

// CloseCode returns the code with which the client has closed the WebSocket (RFC 6455, 7.4). It returns 0 if the client
// has given none, and if the server was the first to close. Call it after End.
func (t *WebSocket) CloseCode() int { return int(t.closeCode.Load()) }

// Gone implements [Transport].
func (t *WebSocket) Gone() <-chan struct{} { return t.gone.c }

// Bounds of the end of a connection.
const (
	// maxClosing is how long the client may need to agree to the end.
	maxClosing = 5 * time.Second
	// maxFailing is how long the client may need to close its side after it has violated the protocol.
	maxFailing = time.Second
	// maxLastWrite is how long the client may need to take the last frame after it has sent a close frame.
	maxLastWrite = 100 * time.Millisecond
)

// End implements [Transport]. It waits up to some seconds for the client to agree to the end.
func (t *WebSocket) End(why Reason) {
	if t.conn == nil {
		return
	}
	switch why {
	case Complete:
		t.close(ws.StatusNormalClosure, "the read has lasted its time: connect again")
	case GoingAway:
		t.close(ws.StatusGoingAway, "the server goes away: connect again")
	case Deleted:
		t.close(closeDeleted, "the channel was deleted")
	case TakenOver:
		t.close(closeTakenOver, "another consumer has taken over")
	case Broken:
	}
	if t.out.isClosing() {
		t.awaitAgreement()
	}
	t.hangUp()
	if t.w != nil { // after the handler has returned, nobody may use its wrappers of the connection
		t.out.settle(maxLastWrite)
		t.listener.reading.Wait()
	}
}

// close sends a close frame, if none was sent before.
func (t *WebSocket) close(code ws.StatusCode, reason string) {
	t.out.control(ws.OpClose, ws.NewCloseFrameBody(code, reason))
}

// awaitAgreement waits until both sides have sent a close frame, within bounds.
func (t *WebSocket) awaitAgreement() {
	if t.out.hasFailed() {
		return
	}
	limit := maxClosing
	if t.failed.Load() {
		if !t.out.settle(maxLastWrite) {
			return
		}
		if half, ok := t.conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		limit = maxFailing
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-t.over.c:
		t.out.settle(maxLastWrite)
	case <-timer.C:
	}
}

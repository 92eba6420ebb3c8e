package transport

import (
	"bytes"
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
	// Timeout is how long a client may take nothing, or leave a ping unanswered that it has taken, before it is given up.
	Timeout time.Duration
	// Conn is the connection below, by which it is known what the client takes, or nil.
	Conn net.Conn
	// Bare takes off a connection what the server has put around it that does nothing any more. It may be nil.
	Bare func(net.Conn) net.Conn
	// Compression offers permessage-deflate (RFC 7692).
	Compression bool
	// Acknowledge is called, from a goroutine of the transport's own, for each event that the client acknowledges.
	Acknowledge func(eventID string)
}

// WebSocket sends events as text messages, and receives acknowledgements (protocol.md 2.4). While nothing is sent or said
// it has no goroutine, where the system allows that.
type WebSocket struct {
	w       http.ResponseWriter
	r       *http.Request
	options WebSocketOptions

	conn       net.Conn // nil before Start
	out        *batchConn
	compressed bool
	err        error // of an Append, for Flush

	listener listener
	parser   parser
	unclear  bool        // the client has said something that is not understood
	failed   atomic.Bool // it does not keep to the protocol: nothing is understood any more

	gone   signal                 // the client has gone, or has said something that ends the read
	over   signal                 // it has said the last
	onGone atomic.Pointer[func()] // is called once gone is told

	pings int // how many there were
	ping  atomic.Pointer[ping]
}

// A ping is one that is not answered yet.
type ping struct {
	payload  string
	answered signal
}

// A signal is told once.
type signal struct {
	once sync.Once
	c    chan struct{}
}

func newSignal() signal { return signal{c: make(chan struct{})} }

func (s *signal) tell() { s.once.Do(func() { close(s.c) }) }

// NewWebSocket returns the transport for a request that [IsUpgrade] and [CheckUpgrade] have let pass.
func NewWebSocket(w http.ResponseWriter, r *http.Request, options WebSocketOptions) *WebSocket {
	return &WebSocket{w: w, r: r, options: options, gone: newSignal(), over: newSignal()}
}

// Start implements [Transport].
func (t *WebSocket) Start() error {
	conn, early, compressed, err := upgrade(t.w, t.r, t.options.Compression)
	if err != nil {
		t.gone.tell()
		return err
	}
	t.conn, t.compressed = conn, compressed
	t.parser = parser{compression: compressed, said: t.said}
	bare := conn
	if t.options.Bare != nil {
		bare = t.options.Bare(conn)
	}
	socket := handover.Socket(bare)
	if socket != nil {
		conn = socket
	}
	t.out = newBatchConn(conn, t.options, t.hangUp)
	t.listener.conn, t.listener.hear, t.listener.over = conn, t.hear, t.heardAll
	t.listener.listen(socket, early)
	return nil
}

// Detach implements [Detachable]. The connection was taken over by Start already.
func (t *WebSocket) Detach(_ *http.Request, _ net.Conn, gone func()) bool {
	t.w, t.r = nil, nil
	t.onGone.Store(&gone)
	if isClosed(t.gone.c) {
		t.tellGone()
	}
	return true
}

// tellGone tells that the read is to end.
func (t *WebSocket) tellGone() {
	t.gone.tell()
	if gone := t.onGone.Swap(nil); gone != nil {
		go (*gone)()
	}
}

// heardAll tells that the client says nothing any more.
func (t *WebSocket) heardAll() {
	t.over.tell()
	t.tellGone()
}

// hangUp closes the connection.
func (t *WebSocket) hangUp() {
	t.listener.stop()
	t.heardAll() // closing may take a moment with TLS
	_ = t.conn.Close()
}

// errAgreed is that the client has sent a close frame.
var errAgreed = errors.New("the client ends the connection")

// hear follows what the client sends, and reports whether it is to be asked for more. After a fault of the client's it is:
// if something were left unread, its system might not let it read why the connection ends.
func (t *WebSocket) hear(p []byte) (more bool) {
	t.out.read.Add(uint64(len(p)))
	if t.failed.Load() {
		return true
	}
	err := t.parser.parse(p)
	if v, ok := errors.AsType[violation](err); ok {
		t.failed.Store(true)
		t.parser = parser{}
		t.close(v.code, v.reason)
		t.tellGone()
		err = nil
	}
	if t.failed.Load() || errors.Is(err, errAgreed) {
		time.AfterFunc(maxFailing, t.hangUp) // messages may be being written, which nobody waits for any more
	}
	return err == nil
}

// said follows a message or a control frame of the client's.
func (t *WebSocket) said(opcode ws.OpCode, payload []byte) error {
	switch opcode {
	case ws.OpPing:
		t.out.answer(payload)
	case ws.OpPong:
		if p := t.ping.Load(); p != nil && p.payload == string(payload) {
			p.answered.tell()
		}
	case ws.OpClose:
		t.out.control(ws.OpClose, payload[:min(2, len(payload))])
		return errAgreed
	default:
		if !t.unclear {
			t.message(opcode, payload)
		}
	}
	return nil
}

// message follows a message of the client's.
func (t *WebSocket) message(opcode ws.OpCode, payload []byte) {
	var said struct {
		Ack *string `json:"ack"`
	}
	if opcode != ws.OpText || json.Unmarshal(payload, &said) != nil || said.Ack == nil {
		t.unclear = true
		t.close(closeBadMessage, `the message is not {"ack":"<event id>"}`)
		t.tellGone()
		return
	}
	t.options.Acknowledge(*said.Ack)
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

// Heartbeat implements [Transport]: it sends a ping. The answer comes when the client has read what was sent before, so
// one that is slow has time for it as long as it takes something.
func (t *WebSocket) Heartbeat() error {
	t.pings++
	p := &ping{payload: strconv.Itoa(t.pings), answered: newSignal()}
	if !t.ping.CompareAndSwap(nil, p) {
		return nil
	}
	t.out.control(ws.OpPing, []byte(p.payload))
	go func() {
		defer t.ping.Store(nil)
		t.out.watch(p.answered.c, t.over.c, t.hangUp)
	}()
	return nil
}

// Gone implements [Transport].
func (t *WebSocket) Gone() <-chan struct{} { return t.gone.c }

// Bounds of the end of a connection.
const (
	// maxClosing is how long the client may take to agree with the end.
	maxClosing = 5 * time.Second
	// maxFailing is how long it may take to close its side if it has not kept to the protocol.
	maxFailing = time.Second
	// maxLastWrite is how long it may take to take the last frame if it has said that it goes.
	maxLastWrite = 100 * time.Millisecond
)

// End implements [Transport]. It waits some seconds for the client to agree with the end.
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
	if t.w != nil { // what the handler has around the connection is not for others once it returns
		t.out.settle(maxLastWrite)
		t.listener.reading.Wait()
	}
}

// close sends a close frame, if none was sent.
func (t *WebSocket) close(code ws.StatusCode, reason string) {
	t.out.control(ws.OpClose, ws.NewCloseFrameBody(code, reason))
}

// awaitAgreement waits until both sides have said that the connection ends, within bounds.
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

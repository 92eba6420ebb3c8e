package transport

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// WebSocketName is the name of the protocol (protocol.md 2.10).
const WebSocketName = "WEBSOCKET_V1"

// Close codes that say why a read ended (protocol.md 2.4).
const (
	closeBadMessage websocket.StatusCode = 4400
	closeDeleted    websocket.StatusCode = 4404
	closeTakenOver  websocket.StatusCode = 4409
)

// WebSocketOptions say how a WebSocket is served.
type WebSocketOptions struct {
	// Timeout is how long a client may take nothing, or leave a ping unanswered that it has taken, before it is given up.
	Timeout time.Duration
	// Conn is the connection below, by which it is known what the client takes, or nil.
	Conn net.Conn
	// Compression offers permessage-deflate (RFC 7692).
	Compression bool
	// Acknowledge is called, from a goroutine of the transport's own, for each event that the client acknowledges.
	Acknowledge func(eventID string)
}

// WebSocket sends events as text messages, and receives acknowledgements (protocol.md 2.4).
type WebSocket struct {
	w       http.ResponseWriter
	r       *http.Request
	options WebSocketOptions

	conn *websocket.Conn
	out  *batchConn
	err  error // of an Append, for Flush

	gone    chan struct{}
	onGone  atomic.Pointer[func()] // is called once gone is closed
	unclear atomic.Bool            // the client has said something that is not understood
	pinging atomic.Bool
}

// NewWebSocket returns the transport for a request that [IsUpgrade] and [CheckUpgrade] have let pass.
func NewWebSocket(w http.ResponseWriter, r *http.Request, options WebSocketOptions) *WebSocket {
	return &WebSocket{w: w, r: r, options: options, gone: make(chan struct{})}
}

// IsUpgrade reports whether a request asks for a WebSocket (RFC 6455, 4.1).
func IsUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && headerHas(r.Header, "Connection", "upgrade") && headerHas(r.Header, "Upgrade", "websocket")
}

// CheckUpgrade looks for what is wrong with a request for a WebSocket. If the problem is not empty, the request
// is to be refused with the status.
func CheckUpgrade(r *http.Request) (status int, problem string) {
	if r.Header.Get("Sec-WebSocket-Version") != "13" {
		return http.StatusUpgradeRequired, "the WebSocket's version must be 13"
	}
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	if err != nil || len(key) != 16 {
		return http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"
	}
	return 0, ""
}

func headerHas(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for value := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(value), token) {
				return true
			}
		}
	}
	return false
}

// Start implements [Transport].
func (t *WebSocket) Start() error {
	accept := websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin has been checked
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     func(context.Context, []byte) bool { return t.out.mayAnswer() },
	}
	if t.options.Compression {
		accept.CompressionMode = websocket.CompressionContextTakeover
	}
	conn, err := websocket.Accept(&batchHijacker{ResponseWriter: t.w, socket: t}, t.r, &accept)
	if err != nil {
		close(t.gone)
		return err
	}
	t.conn = conn
	go t.listen()
	return nil
}

// Detach implements [Detachable]. The connection was taken over by Start already.
func (t *WebSocket) Detach(_ *http.Request, _ net.Conn, gone func()) bool {
	t.w, t.r = nil, nil
	t.onGone.Store(&gone)
	if isClosed(t.gone) {
		t.tellGone()
	}
	return true
}

// tellGone tells that gone is closed, once.
func (t *WebSocket) tellGone() {
	if gone := t.onGone.Swap(nil); gone != nil {
		go (*gone)()
	}
}

// maxClientMessage is the largest message, in bytes, that a client may send.
const maxClientMessage = 4 << 10

// listen reads what the client says until it goes.
func (t *WebSocket) listen() {
	defer t.tellGone()
	defer close(t.gone)
	t.conn.SetReadLimit(maxClientMessage)
	for {
		kind, text, err := t.conn.Read(context.Background())
		if err != nil {
			return
		}
		var said struct {
			Ack *string `json:"ack"`
		}
		if kind != websocket.MessageText || json.Unmarshal(text, &said) != nil || said.Ack == nil {
			t.unclear.Store(true)
			return
		}
		t.options.Acknowledge(*said.Ack)
	}
}

// Append implements [Transport].
func (t *WebSocket) Append(_ uuid.UUID, line []byte) {
	t.out.hold()
	// The context has no end: the time is bounded by out, at less cost.
	if err := t.conn.Write(context.Background(), websocket.MessageText, bytes.TrimSuffix(line, []byte("\n"))); err != nil && t.err == nil {
		t.err = err
	}
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
	if t.pinging.Swap(true) {
		return nil
	}
	go func() {
		defer t.pinging.Store(false)
		ctx, giveUp := context.WithCancel(context.Background())
		defer giveUp()
		go t.out.watch(ctx, giveUp)
		if t.conn.Ping(ctx) != nil {
			_ = t.conn.CloseNow()
		}
	}()
	return nil
}

// Gone implements [Transport].
func (t *WebSocket) Gone() <-chan struct{} { return t.gone }

// End implements [Transport]. It waits some seconds for the client to agree with the end.
func (t *WebSocket) End(why Reason) {
	if t.conn == nil {
		return
	}
	switch {
	case why == Complete:
		_ = t.conn.Close(websocket.StatusNormalClosure, "the read has lasted its time: connect again")
	case why == GoingAway:
		_ = t.conn.Close(websocket.StatusGoingAway, "the server goes away: connect again")
	case why == Deleted:
		_ = t.conn.Close(closeDeleted, "the channel was deleted")
	case why == TakenOver:
		_ = t.conn.Close(closeTakenOver, "another consumer has taken over")
	case t.unclear.Load():
		_ = t.conn.Close(closeBadMessage, `the message is not {"ack":"<event id>"}`)
	default:
		_ = t.conn.CloseNow()
	}
}

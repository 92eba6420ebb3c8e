package transport

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 requires it
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"
)

// IsUpgrade reports whether a request asks for a WebSocket (RFC 6455, 4.1).
func IsUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && headerHas(r.Header, "Connection", "upgrade") && headerHas(r.Header, "Upgrade", "websocket")
}

// CheckUpgrade checks a request for a WebSocket. If problem is not empty, the caller must refuse the request with the
// status.
func CheckUpgrade(r *http.Request) (status int, problem string) {
	if !r.ProtoAtLeast(1, 1) || r.Header.Get("Sec-WebSocket-Version") != "13" {
		return http.StatusUpgradeRequired, "the WebSocket's version must be 13, and the request's HTTP/1.1"
	}
	if len(r.Header.Values("Sec-WebSocket-Key")) > 1 {
		return http.StatusBadRequest, "Sec-WebSocket-Key must be there once"
	}
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	if err != nil || len(key) != 16 {
		return http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"
	}
	return 0, ""
}

// SelectProtocol returns the first subprotocol that a request for a WebSocket offers and the site has (RFC 6455, 4.2.2).
// It returns "" if the request offers none. It reports false if the site has none of those that the request offers: a
// browser would close such a WebSocket at once, and tell its page nothing.
func SelectProtocol(r *http.Request, has []string) (selected string, ok bool) {
	ok = true
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offered := range strings.SplitSeq(line, ",") {
			offered = strings.TrimSpace(offered)
			if slices.Contains(has, offered) {
				return offered, true
			}
			ok = ok && offered == ""
		}
	}
	return "", ok
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

// upgrade answers a request that has passed [IsUpgrade] and [CheckUpgrade], and hijacks its connection. early is what
// the client has already sent after the request. The response goes through net/http, so every wrapper of the handler
// sees it.
func upgrade(w http.ResponseWriter, r *http.Request, o WebSocketOptions) (conn net.Conn, early []byte, compressed bool, err error) {
	h := w.Header()
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.Set("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
	if o.Protocol != "" {
		h.Set("Sec-WebSocket-Protocol", o.Protocol)
	}
	if o.Compression {
		if extension := agreeOnCompression(r.Header.Values("Sec-WebSocket-Extensions")); extension != "" {
			h.Set("Sec-WebSocket-Extensions", extension)
			compressed = true
		}
	}
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, false, err
	}
	early, _ = buffered.Peek(buffered.Reader.Buffered()) // cannot fail: the bytes are in the buffer
	return conn, append([]byte(nil), early...), compressed, nil
}

// acceptKey returns the answer to a client's key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

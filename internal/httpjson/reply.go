// Package httpjson reads request bodies and writes replies as the protocol has them: JSON, with a code and a message for
// each error (protocol.md 1.2). It is the one place where the errors of a Broker become HTTP statuses. It knows the errors of a Broker,
// and nothing of endpoints.
package httpjson

import (
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/conn"
)

// JSONType is the content type of JSON.
const JSONType = "application/json"

// OK is the body of a reply that has nothing else to say. Do not change it.
var OK = []byte(`{"status":"OK"}`)

// Values of headers. They are shared by all replies, which saves each of them two allocations.
var (
	jsonType = []string{JSONType}
	noStore  = []string{"no-store"}
)

// Write sends a reply with a JSON body, which no cache may keep. It ignores errors: a client that is gone needs no reply.
func Write(w http.ResponseWriter, status int, body []byte) {
	SetJSONHeader(w.Header())
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// WriteEarly is [Write] for the reply to a request of which the body may not have been read to its end. The connection of
// HTTP/1 then ends with the reply, if the rest is not short.
func WriteEarly(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if conn.BodyOf(r).BeginReply() {
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	Write(w, status, body)
}

// SetJSONHeader sets the header of a reply that [Write] would send. The values are shared: do not change them in place.
func SetJSONHeader(h http.Header) {
	h["Content-Type"] = jsonType
	h["Cache-Control"] = noStore
}

// TimeOrNull returns a time as replies have it: in UTC, or nil for the zero time. JSON has null for nil.
func TimeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

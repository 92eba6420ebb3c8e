package megaphone

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// serveWrite writes one message (protocol.md 1.4).
func (h *Handler) serveWrite(w http.ResponseWriter, r *http.Request, producer, streamID string, entry *accessLogEntry) error {
	m, err := h.readMessage(r, streamID)
	if err != nil {
		return err
	}
	if err := h.app.broker.Publish(r.Context(), producer, m, h.app.limits); err != nil {
		return err
	}
	entry.messages = 1
	if h.direct == nil || !h.direct.Hijack(w, r, producer, m) {
		httpjson.Write(w, http.StatusCreated, httpjson.OK)
	}
	return nil
}

// readMessage reads the one message of a request.
func (h *Handler) readMessage(r *http.Request, streamID string) (*broker.Message, error) {
	if err := httpjson.CheckJSONType(r); err != nil {
		return nil, err
	}
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return nil, err
	}
	merge, err := mergeOf(r.Header)
	if err != nil {
		return nil, err
	}
	body, err := httpjson.ReadBody(r, h.app.MaxMessageSize)
	if err != nil {
		return nil, err
	}
	m, err := broker.NewMessage(streamID, body.Bytes(), key)
	httpjson.FreeBody(body)
	if err != nil {
		return nil, err
	}
	return m.WithMerge(merge), nil
}

var errKey = errors.New("a key is 1 to 255 visible ASCII characters")

// idempotencyKey returns the key of a write that may be repeated (protocol.md 2.11), or "".
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || !broker.ValidKey(values[0]):
		return "", httpjson.BadRequest("Idempotency-Key: " + errKey.Error())
	}
	return values[0], nil
}

var errMerge = errors.New(`a message is merged by "replace" or "append"`)

// mergeOf returns how the message of a request may be merged (protocol.md 2.13).
func mergeOf(h http.Header) (broker.Merge, error) {
	values := h.Values("Megaphone-Merge")
	if len(values) == 0 {
		return broker.MergeNone, nil
	}
	how, ok := broker.ParseMerge(values[0])
	if !ok || len(values) > 1 {
		return how, httpjson.BadRequest("Megaphone-Merge: " + errMerge.Error())
	}
	return how, nil
}

// A batch is the body of a write-batch request.
type batch struct {
	Channels   jsontext.Strings `json:"channels"`
	ChannelIDs jsontext.Strings `json:"channelIds"`
	Messages   batchMessages    `json:"messages"`
}

type batchMessage struct {
	StreamID jsontext.String  `json:"streamId"`
	Body     json.RawMessage  `json:"body"`
	Key      *jsontext.String `json:"key"`
	Merge    *jsontext.String `json:"merge"`
}

type batchMessages []batchMessage

// UnmarshalJSON implements [json.Unmarshaler]. If a batch has several lists, the last one counts and nothing of the others
// remains in it.
func (ms *batchMessages) UnmarshalJSON(text []byte) error {
	*ms = nil
	return json.Unmarshal(text, (*[]batchMessage)(ms))
}

// render renders the messages.
func (ms batchMessages) render() ([]*broker.Message, error) {
	rendered := make([]*broker.Message, len(ms))
	for i, m := range ms {
		if m.Body == nil {
			return nil, httpjson.BadRequest(fmt.Sprintf("messages[%d] has no body", i))
		}
		key := ""
		if m.Key != nil {
			if key = string(*m.Key); !broker.ValidKey(key) {
				return nil, httpjson.BadRequest(fmt.Sprintf("messages[%d]: %v", i, errKey))
			}
		}
		how, ok := broker.MergeNone, true
		if m.Merge != nil {
			how, ok = broker.ParseMerge(string(*m.Merge))
		}
		if !ok {
			return nil, httpjson.BadRequest(fmt.Sprintf("messages[%d]: %v", i, errMerge))
		}
		var err error
		if rendered[i], err = broker.NewMessage(string(m.StreamID), m.Body, key); err != nil {
			return nil, httpjson.BadRequest(fmt.Sprintf("messages[%d]: %v", i, err))
		}
		rendered[i].WithMerge(how)
	}
	return rendered, nil
}

// A failure is a message that a channel has not taken, and why.
type failure struct {
	Channel string `json:"channel"`
	Index   int    `json:"index"`
	Reason  string `json:"reason"`
}

// maxDeliveries bounds a batch's channels times its messages. The list of failures in the reply may be as long.
const maxDeliveries = 1 << 18

// serveWriteBatch writes every message of a batch to every channel of it (protocol.md 1.5).
func (h *Handler) serveWriteBatch(w http.ResponseWriter, r *http.Request, entry *accessLogEntry) error {
	var b batch
	if err := httpjson.ReadJSON(r, h.app.MaxMessageSize, &b); err != nil {
		return err
	}
	channels, err := channelSet(b.Channels, b.ChannelIDs)
	if err != nil {
		return err
	}
	if b.Messages == nil {
		return httpjson.BadRequest("the list of messages is missing")
	}
	if len(b.Messages) > 0 && len(channels) > maxDeliveries/len(b.Messages) {
		return httpjson.BadRequest(fmt.Sprintf("too many messages to too many channels: their product may be %d", maxDeliveries))
	}
	ms, err := b.Messages.render()
	if err != nil {
		return err
	}
	outcomes := h.app.broker.PublishBatch(r.Context(), channels, ms, h.app.limits)
	if err := r.Context().Err(); err != nil {
		return err
	}
	failures := []failure{}
	for i, outcome := range outcomes {
		entry.messages += outcome.Accepted
		h.noteLimit(outcome.Err, 1)
		failures = appendFailures(failures, channels[i], outcome, len(ms))
	}
	reply, err := json.Marshal(struct {
		Failures []failure `json:"failures"`
	}{failures})
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusCreated, reply)
	return nil
}

// appendFailures appends what the outcome in a channel means for each of n messages. What became of one is then unknown of all
// after it.
func appendFailures(failures []failure, channel string, outcome broker.Outcome, n int) []failure {
	if outcome.Err == nil {
		return failures
	}
	reason := httpjson.ErrorOf(outcome.Err).Code
	for i := outcome.Accepted; i < n; i++ {
		failures = append(failures, failure{channel, i, reason})
		if !errors.Is(outcome.Err, broker.ErrNotFound) && !errors.Is(outcome.Err, broker.ErrOutcomeUnknown) {
			reason = "SKIPPED"
		}
	}
	return failures
}

package megaphone

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// A channelState is what a client that has one of a channel's addresses may know of it (protocol.md 2.9).
type channelState struct {
	Address   string     `json:"address"`
	Connected bool       `json:"connected"`
	Pending   int        `json:"pending"`
	InFlight  int        `json:"inFlight"`
	Created   time.Time  `json:"created"`
	LastRead  *time.Time `json:"lastRead"` // null if never
	Expires   *time.Time `json:"expires"`  // null while it has a reader
}

// serveManage shows a channel's state, or deletes the channel (protocol.md 2.9).
func (h *Handler) serveManage(w http.ResponseWriter, r *http.Request, address string) error {
	if r.Method == http.MethodDelete {
		if err := h.app.broker.Delete(r.Context(), address); err != nil {
			return err
		}
		httpjson.Write(w, http.StatusOK, httpjson.OK)
		return nil
	}
	state, err := h.app.broker.State(r.Context(), address)
	if err != nil {
		return err
	}
	reply, err := json.Marshal(channelState{
		Address:   address,
		Connected: state.Connected,
		Pending:   state.Pending,
		InFlight:  state.InFlight,
		Created:   state.Created.UTC(),
		LastRead:  httpjson.TimeOrNull(state.LastRead),
		Expires:   httpjson.TimeOrNull(state.Expires),
	})
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, reply)
	return nil
}

// serveCreate creates a channel (protocol.md 1.3).
func (h *Handler) serveCreate(w http.ResponseWriter, r *http.Request) error {
	asked, err := h.readCreate(r)
	if err != nil {
		return err
	}
	limits := h.app.limits
	limits.ChannelTTL = asked.ttl
	if limits.MaxChannelsPerClient > 0 {
		limits.Client = clientOf(r)
	}
	addresses, err := h.createChannel(r.Context(), asked, limits)
	if err != nil {
		return err
	}
	h.app.reportCreated(addresses.Consumer)
	reply, err := json.Marshal(struct {
		ChannelID       string   `json:"channelId"`
		ProducerAddress string   `json:"producerAddress"`
		ConsumerAddress string   `json:"consumerAddress"`
		AgentName       string   `json:"agentName"`
		Protocols       []string `json:"protocols"`
	}{addresses.Consumer, addresses.Producer, addresses.Consumer, h.app.Agent, asked.protocols})
	if err != nil {
		return err
	}
	httpjson.WriteEarly(w, r, http.StatusOK, reply)
	return nil
}

// createChannel creates a channel as a request asks for.
func (h *Handler) createChannel(ctx context.Context, asked createRequest, limits broker.Limits) (broker.Addresses, error) {
	if asked.topics == nil || h.topics == nil {
		return h.app.broker.Create(ctx, h.app.Agent, limits)
	}
	return h.topics.CreateMember(ctx, h.app.Agent, asked.topics, limits)
}

// maxCreateBody is the size of the largest body of a create request that counts, in bytes.
const maxCreateBody = 2 << 20

// A createRequest is what a create request asks for.
type createRequest struct {
	protocols []string      // that are granted
	topics    []broker.Join // nil if the channel does not know topics
	ttl       time.Duration // 0 for that of the configuration
}

// readCreate reads what a create request asks for. A body that nobody can read asks for nothing, and so do protocols that
// nobody can read: existing clients send such bodies.
func (h *Handler) readCreate(r *http.Request) (asked createRequest, err error) {
	asked.protocols = transport.Protocols[:1]
	if r.ContentLength == 0 {
		return asked, nil
	}
	body, err := httpjson.ReadBody(r, maxCreateBody)
	if err != nil {
		return asked, nil // asks for nothing
	}
	defer httpjson.FreeBody(body)
	var fields struct {
		Protocols, Topics, TTL json.RawMessage
	}
	if err := json.Unmarshal(body.Bytes(), &fields); err != nil {
		return asked, nil // asks for nothing
	}
	var protocols []string
	if json.Unmarshal(fields.Protocols, &protocols) == nil && len(protocols) > 0 {
		if asked.protocols, err = h.grantProtocols(protocols); err != nil {
			return asked, err
		}
	}
	if isGiven(fields.Topics) {
		if asked.topics, err = h.parseJoins(fields.Topics); err != nil {
			return asked, err
		}
	}
	if isGiven(fields.TTL) {
		var text string
		_ = json.Unmarshal(fields.TTL, &text) // the empty text is not a duration
		asked.ttl, err = parseTTL(text, time.Duration(h.app.MaxTTL))
	}
	return asked, err
}

// isGiven reports whether a field is in a body, and not null.
func isGiven(field json.RawMessage) bool { return len(field) > 0 && string(field) != "null" }

// grantProtocols returns those of the protocols that the site serves.
func (h *Handler) grantProtocols(asked []string) (granted []string, err error) {
	for _, name := range asked {
		kind := slices.Index(transport.Protocols, name)
		if kind >= 0 && h.offers[kind] && !slices.Contains(granted, name) {
			granted = append(granted, name)
		}
	}
	if len(granted) == 0 {
		return nil, httpjson.BadRequest("none of the protocols asked for is served here")
	}
	return granted, nil
}

// serveChannelsExist says which of the given channels exist (protocol.md 1.7).
func (h *Handler) serveChannelsExist(w http.ResponseWriter, r *http.Request) error {
	var asked struct {
		Channels   jsontext.Strings `json:"channels"`
		ChannelIDs jsontext.Strings `json:"channelIds"`
	}
	if err := httpjson.ReadJSON(r, h.app.MaxMessageSize, &asked); err != nil {
		return err
	}
	channels, err := channelSet(asked.Channels, asked.ChannelIDs)
	if err != nil {
		return err
	}
	exist := make(map[string]bool, len(channels))
	for _, address := range channels {
		_, err := h.app.broker.State(r.Context(), address)
		if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return err
		}
		exist[address] = err == nil
	}
	reply, err := json.Marshal(struct {
		Channels map[string]bool `json:"channels"`
	}{exist})
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, reply)
	return nil
}

// channelSet returns the channels that a request names, each once. The list has two names, and only one may be used.
func channelSet(channels, channelIDs []string) ([]string, error) {
	switch {
	case channels == nil && channelIDs == nil:
		return nil, httpjson.BadRequest("the list of channels is missing")
	case channels != nil && channelIDs != nil:
		return nil, httpjson.BadRequest("channels and channelIds are the same: give one of them")
	case channels == nil:
		channels = channelIDs
	}
	seen := make(map[string]struct{}, len(channels))
	return slices.DeleteFunc(channels, func(address string) bool {
		_, seenBefore := seen[address]
		seen[address] = struct{}{}
		return seenBefore
	}), nil
}

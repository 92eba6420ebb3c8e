package megaphone

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
	"github.com/caddy-megaphone/megaphone/internal/topicend"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// checkTopics refuses a site that serves topics if the Broker has none.
func (h *Handler) checkTopics() error {
	h.topics, _ = h.app.broker.(broker.Topics)
	for _, name := range h.Endpoints {
		if h.topics == nil && (name == "topics" || name == "publish") {
			return fmt.Errorf("endpoint %q: the broker %s has no topics: leave the endpoint out, or use another broker, such as memory or redis",
				name, h.app.provider.(caddy.Module).CaddyModule().ID.Name())
		}
	}
	return nil
}

// serveTopic serves a request about a topic (protocol.md 2.12).
func (h *Handler) serveTopic(w http.ResponseWriter, r *http.Request, t *target, entry *accessLogEntry) error {
	if err := broker.CheckTopic(t.topic); err != nil {
		return httpjson.BadRequest(err.Error())
	}
	var err error
	switch {
	case t.endpoint == publishEndpoint:
		return h.servePublish(w, r, t, entry)
	case t.endpoint == topicEndpoint && r.Method != http.MethodPut:
		return h.serveTopicState(w, r, t.topic)
	case t.endpoint == topicEndpoint:
		err = h.keepTopic(r, t.topic)
	case t.endpoint == closeEndpoint:
		err = h.closeTopic(r, t.topic)
	case r.Method == http.MethodPut:
		err = h.joinTopic(r, t)
	default:
		err = h.topics.Leave(r.Context(), t.address, t.topic)
	}
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, httpjson.OK)
	return nil
}

// joinTopic makes a channel a member.
func (h *Handler) joinTopic(r *http.Request, t *target) (err error) {
	join := broker.Join{Topic: t.topic}
	if text, ok, err := onlyValue(r.URL, "last"); err != nil {
		return err
	} else if ok {
		if join.Last, err = parseLast(text); err != nil {
			return err
		}
	}
	return h.topics.Join(r.Context(), t.address, join, h.app.limits)
}

// onlyValue returns the value of a parameter that may be in the query once.
func onlyValue(u *url.URL, name string) (value string, ok bool, err error) {
	switch values := u.Query()[name]; len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	}
	return "", false, httpjson.BadRequest(name + " appears more than once")
}

// parseLast reads how many kept messages a channel gets.
func parseLast(text string) (int, error) {
	if text == "all" {
		return broker.LastAll, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, httpjson.BadRequest("last is how many of the kept messages the channel gets: a whole number, or all")
	}
	return int(n), nil
}

// parseJoins reads the topics that a new channel joins. It never returns nil: the channel knows topics.
func (h *Handler) parseJoins(list json.RawMessage) ([]broker.Join, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(list, &items); err != nil {
		return nil, httpjson.BadRequest(`topics is a list such as ["a",{"topic":"b","last":"all"}]`)
	}
	if len(items) > 0 && !h.serves[memberEndpoint] {
		return nil, httpjson.Forbidden("this site does not serve topics, so a new channel cannot join any")
	}
	joins := make([]broker.Join, 0, min(len(items), h.app.MaxTopics))
	seen := map[string]bool{}
	for i, item := range items {
		join, err := parseJoin(item)
		if err == nil && seen[join.Topic] {
			err = errors.New("the topic is in the list already")
		}
		if err != nil {
			return nil, httpjson.BadRequest(fmt.Sprintf("topics[%d]: %v", i, err))
		}
		if len(joins) == h.app.MaxTopics {
			return nil, broker.ErrTopicLimit
		}
		seen[join.Topic] = true
		joins = append(joins, join)
	}
	return joins, nil
}

var errJoin = errors.New(`write "a", or {"topic":"a","last":"all"} where last is a whole number, or "all" of the kept messages`)

// parseJoin reads one of the topics that a new channel joins.
func parseJoin(item json.RawMessage) (join broker.Join, err error) {
	var asked struct {
		Topic jsontext.String `json:"topic"`
		Last  json.RawMessage `json:"last"`
	}
	if item[0] == '"' {
		err = json.Unmarshal(item, &asked.Topic)
	} else {
		err = json.Unmarshal(item, &asked)
	}
	if err != nil || !utf8.Valid(item) {
		return join, errJoin
	}
	join.Topic = string(asked.Topic)
	if isGiven(asked.Last) {
		last := string(asked.Last)
		if last == `"all"` {
			last = "all"
		}
		if join.Last, err = parseLast(last); err != nil {
			return join, errJoin
		}
	}
	return join, broker.CheckTopic(join.Topic)
}

// keepTopic sets a topic's memory.
func (h *Handler) keepTopic(r *http.Request, topic string) error {
	var asked struct {
		Keep *string `json:"keep"`
		TTL  *string `json:"ttl"`
	}
	if err := httpjson.ReadJSON(r, h.app.MaxMessageSize, &asked); err != nil {
		return err
	}
	keep := h.app.limits.TopicKeep
	if asked.Keep != nil {
		n, err := humanize.ParseBytes(*asked.Keep)
		if err != nil || n > uint64(h.app.MaxMemory) { //nolint:gosec // above zero
			return httpjson.BadRequest(fmt.Sprintf("keep is a size such as 500KB or 1MiB, from 0 to %d bytes", h.app.MaxMemory))
		}
		keep.Bytes = int64(n) //nolint:gosec // at most MaxMemory
	}
	if asked.TTL != nil {
		var err error
		if keep.TTL, err = parseTTL(*asked.TTL, time.Duration(max(h.app.MaxTTL, h.app.TopicTTL))); err != nil {
			return err
		}
	}
	return h.topics.KeepTopic(r.Context(), topic, keep, h.app.limits)
}

// minTTL is the shortest ttl that a request may ask for.
const minTTL = time.Second

// parseTTL reads a ttl that a request asks for.
func parseTTL(text string, longest time.Duration) (time.Duration, error) {
	ttl, err := caddy.ParseDuration(text)
	if err != nil || ttl < minTTL || ttl > longest {
		return 0, httpjson.BadRequest(fmt.Sprintf("ttl is a duration such as 90s, 10m or 1d, from %v to %v", minTTL, longest))
	}
	return ttl, nil
}

// closeTopic ends a topic as the body says. Without a body, it is done.
func (h *Handler) closeTopic(r *http.Request, topic string) error {
	var asked struct {
		As       jsontext.String  `json:"as"`
		StreamID *jsontext.String `json:"streamId"`
	}
	asked.As = broker.EndDone
	if err := httpjson.ReadOptionalJSON(r, h.app.MaxMessageSize, &asked); err != nil {
		return err
	}
	if asked.As != broker.EndDone && asked.As != broker.EndAborted {
		return httpjson.BadRequest(fmt.Sprintf("as is %s or %s", broker.EndDone, broker.EndAborted))
	}
	streamID := topic
	if asked.StreamID != nil {
		streamID = string(*asked.StreamID)
	}
	end, err := broker.NewEnd(streamID, string(asked.As))
	if err != nil {
		return err
	}
	return h.topics.CloseTopic(r.Context(), topic, end, h.app.limits)
}

// A topicState is what a backend may know of a topic.
type topicState struct {
	Members   int     `json:"members"`
	Connected int     `json:"connected"`
	Kept      int     `json:"kept"`
	Closed    *string `json:"closed"` // null while it is open
}

// serveTopicState shows a topic.
func (h *Handler) serveTopicState(w http.ResponseWriter, r *http.Request, topic string) error {
	info, err := h.topics.Topic(r.Context(), topic)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, newTopicState(info))
}

func newTopicState(info broker.TopicInfo) topicState {
	state := topicState{Members: info.Members, Connected: info.Connected, Kept: info.Kept}
	if info.Closed != "" {
		state.Closed = &info.Closed
	}
	return state
}

// writeJSON replies with a value as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	reply, err := json.Marshal(v)
	if err != nil {
		return err
	}
	httpjson.Write(w, status, reply)
	return nil
}

// whenFull has the values of the parameter full.
var whenFull = map[string]broker.WhenFull{"hold": broker.FullHold, "delete": broker.FullDelete}

// servePublish publishes one message.
func (h *Handler) servePublish(w http.ResponseWriter, r *http.Request, t *target, entry *accessLogEntry) error {
	full := broker.FullMiss
	if text, ok, err := onlyValue(r.URL, "full"); err != nil {
		return err
	} else if ok {
		if full, ok = whenFull[text]; !ok {
			return httpjson.BadRequest("full is hold or delete: without it, members without room miss the message")
		}
	}
	m, err := h.readMessage(r, t.streamID)
	if err != nil {
		return err
	}
	published, err := h.topics.PublishTopic(r.Context(), t.topic, m, full, h.app.limits)
	if err != nil {
		return err
	}
	entry.messages = published.Accepted
	return writeJSON(w, http.StatusAccepted, struct {
		Members  int `json:"members"`
		Accepted int `json:"accepted"`
		Full     int `json:"full"`
	}{published.Members, published.Accepted, published.Full})
}

// maxClosed is how many topics a streamed ingest closes at most.
const maxClosed = 100

// topicEnd returns what closes the topics that the query of a streamed ingest names, or nil if there are none.
func (h *Handler) topicEnd(u *url.URL) (*topicend.End, error) {
	names := u.Query()["close"]
	switch {
	case len(names) == 0:
		return nil, nil //nolint:nilnil // nothing to close
	case !h.serves[publishEndpoint]:
		return nil, errNoPublish
	case len(names) > maxClosed:
		return nil, httpjson.BadRequest(fmt.Sprintf("close appears more than %d times", maxClosed))
	}
	for _, name := range names {
		if err := broker.CheckTopic(name); err != nil {
			return nil, httpjson.BadRequest("close: " + err.Error())
		}
	}
	return h.app.registry.topicEnds.Begin(h.topics, names, h.app.limits, func() *zap.Logger { return loadedLogger(h.logger) })
}

// errNoPublish is the reply to a request that publishes to a topic on a site that does not serve that.
var errNoPublish = httpjson.Forbidden("this site does not serve publish, so lines cannot name topics")

// reportTopics reports topics that have got their first member or lost their last one, to the webhooks and handlers of the active
// App. The Broker calls it.
func (s *registry) reportTopics(changes []broker.TopicEvent) {
	defer guard.Recover(guard.Event)
	a := s.active.current.Load()
	if a == nil || !a.wantsEvent(webhook.TopicOccupied) && !a.wantsEvent(webhook.TopicVacated) {
		return
	}
	now := time.Now()
	name := func(change broker.TopicEvent) string {
		if change.Members > 0 {
			return webhook.TopicOccupied
		}
		return webhook.TopicVacated
	}
	for len(changes) > 0 {
		first := name(changes[0])
		n := slices.IndexFunc(changes, func(change broker.TopicEvent) bool { return name(change) != first })
		if n < 0 {
			n = len(changes)
		}
		events := make([]webhook.Event, n)
		for i, change := range changes[:n] {
			now = now.Add(1) // so that receivers know the order
			events[i] = webhook.Event{Topic: change.Topic, At: now}
		}
		s.reportLater(a, first, events)
		changes = changes[n:]
	}
}

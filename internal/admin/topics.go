package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// A Topic describes a topic in a reply.
type Topic struct {
	// Name is the topic's name. It is not a secret.
	Name string `json:"topic"`
	// Members is how many channels are members, and Connected how many of them have a reader.
	Members   int `json:"members"`
	Connected int `json:"connected"`
	// Kept is how many messages the topic keeps, and KeptBytes what they take.
	Kept      int   `json:"kept"`
	KeptBytes int64 `json:"keptBytes"`
	// Keep is how many bytes it may keep, and TTL how long it keeps them without members, as [time.Duration] writes it.
	Keep int64  `json:"keep"`
	TTL  string `json:"ttl"`
	// Closed is done or aborted, or nil while the topic is open.
	Closed *string `json:"closed"`
}

func newTopic(info broker.TopicInfo) Topic {
	t := Topic{
		Name: info.Name, Members: info.Members, Connected: info.Connected, Kept: info.Kept, KeptBytes: info.KeptBytes,
		Keep: info.Keep.Bytes, TTL: info.Keep.TTL.String(),
	}
	if info.Closed != "" {
		t.Closed = &info.Closed
	}
	return t
}

// A TopicListReply is one page of the list of topics.
type TopicListReply struct {
	Topics []Topic `json:"topics"`
	// Next is the cursor of the next page, or empty on the last page. A page may be empty without being the last one.
	Next string `json:"next,omitempty"`
}

// topicsOf returns the Broker, if it has topics.
func topicsOf(v View) (broker.Topics, error) {
	if topics, ok := v.Broker.(broker.Topics); ok {
		return topics, nil
	}
	return nil, newError(http.StatusNotImplemented, "the configured broker has no topics")
}

// listTopics serves a page of the list of topics.
func listTopics(v View, r *http.Request) (int, any, error) {
	topics, err := topicsOf(v)
	if err != nil {
		return 0, nil, err
	}
	o, err := parseTopicListOptions(r.URL)
	if err != nil {
		return 0, nil, newError(http.StatusBadRequest, err.Error())
	}
	page, err := topics.ListTopics(r.Context(), o)
	if err != nil {
		return 0, nil, err
	}
	reply := TopicListReply{Topics: make([]Topic, 0, len(page.Topics)), Next: page.Next}
	for _, info := range page.Topics {
		reply.Topics = append(reply.Topics, newTopic(info))
	}
	return http.StatusOK, reply, nil
}

// parseTopicListOptions reads which topics a request wants to list.
func parseTopicListOptions(u *url.URL) (broker.TopicListOptions, error) {
	o := broker.TopicListOptions{Limit: defaultPage}
	parameters, err := parseQuery(u, "cursor", "limit", "min_members", "prefix")
	if err != nil {
		return o, err
	}
	o.After, o.Prefix = parameters["cursor"], parameters["prefix"]
	for name, number := range map[string]struct {
		field       *int
		least, most int
	}{"limit": {&o.Limit, 1, MaxPage}, "min_members": {&o.MinMembers, 0, 1 << 30}} {
		if value, ok := parameters[name]; ok {
			if *number.field, err = parseNumber(value, number.least, number.most); err != nil {
				return o, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return o, nil
}

// A topicEndpoint serves one kind of request about a topic.
type topicEndpoint func(v View, r *http.Request, topics broker.Topics, name string) (reply any, err error)

// ofTopic returns an endpoint for requests about the topic whose name is in the path. They have no query.
func ofTopic(serve topicEndpoint) endpoint {
	return withoutQuery(func(v View, r *http.Request) (int, any, error) {
		topics, err := topicsOf(v)
		if err != nil {
			return 0, nil, err
		}
		name := r.PathValue("topic")
		if err := broker.CheckTopic(name); err != nil {
			return 0, nil, newError(http.StatusBadRequest, err.Error())
		}
		reply, err := serve(v, r, topics, name)
		return http.StatusOK, reply, err
	})
}

// showTopic serves one topic. A topic that does not exist has neither members nor a memory.
func showTopic(_ View, r *http.Request, topics broker.Topics, name string) (any, error) {
	info, err := topics.Topic(r.Context(), name)
	info.Name = name
	return newTopic(info), err
}

// A MembersReply is the result of a join or a leave.
type MembersReply struct {
	// Done is how many of the channels are members now, or are none now.
	Done int `json:"done"`
	// NotFound has the ids and addresses that name no channel, as the request has them. It is never nil.
	NotFound []string `json:"notFound"`
}

// A members is the body of a request that makes channels members, by id or address.
type members struct {
	Channels jsontext.Strings `json:"channels"`
	Last     json.RawMessage  `json:"last"`
}

// joinTopic makes the channels that the body names members.
func joinTopic(v View, r *http.Request, topics broker.Topics, name string) (any, error) {
	var body members
	if err := parseBody(r, &body); err != nil {
		return nil, err
	}
	join := broker.Join{Topic: name}
	switch last := string(body.Last); last {
	case "", "null":
	case `"all"`:
		join.Last = broker.LastAll
	default:
		var err error
		if join.Last, err = strconv.Atoi(last); err != nil || join.Last < 0 {
			return nil, newError(http.StatusBadRequest, `last: use a whole number, or "all" of the kept messages`)
		}
	}
	return changeMembers(v, r, body.Channels, func(info broker.ChannelInfo) error {
		return topics.Join(r.Context(), info.Producer, join, v.Limits)
	})
}

// leaveTopic ends the memberships of the channels that the body names.
func leaveTopic(v View, r *http.Request, topics broker.Topics, name string) (any, error) {
	var body struct {
		Channels jsontext.Strings `json:"channels"`
	}
	if err := parseBody(r, &body); err != nil {
		return nil, err
	}
	return changeMembers(v, r, body.Channels, func(info broker.ChannelInfo) error {
		return topics.Leave(r.Context(), info.Producer, name)
	})
}

// changeMembers calls change for each of the channels.
func changeMembers(v View, r *http.Request, channels []string, change func(broker.ChannelInfo) error) (any, error) {
	names, err := channelNames(channels)
	if err != nil {
		return nil, err
	}
	done := 0
	notFound, err := forEachName(v, r, names, func(info broker.ChannelInfo) error {
		err := change(info)
		if err == nil {
			done++
		}
		return err
	})
	if err != nil {
		return nil, haltedError(err, done, "changed")
	}
	return MembersReply{Done: done, NotFound: notFound}, nil
}

// A PublishReply says what became of a published message.
type PublishReply struct {
	// Members is how many members there were, Accepted how many of them have taken the message, and Full how many had no
	// room for it.
	Members  int `json:"members"`
	Accepted int `json:"accepted"`
	Full     int `json:"full"`
}

// whenFull has the values of the field full.
var whenFull = map[string]broker.WhenFull{"": broker.FullMiss, "hold": broker.FullHold, "delete": broker.FullDelete}

// publish publishes the message that the body has.
func publish(v View, r *http.Request, topics broker.Topics, name string) (any, error) {
	var body struct {
		StreamID jsontext.String  `json:"streamId"`
		Body     json.RawMessage  `json:"body"`
		Key      *jsontext.String `json:"key"`
		Full     string           `json:"full"`
	}
	if err := parseBody(r, &body); err != nil {
		return nil, err
	}
	full, ok := whenFull[body.Full]
	key := ""
	if body.Key != nil {
		key = string(*body.Key)
	}
	switch {
	case !ok:
		return nil, newError(http.StatusBadRequest, "full: use hold or delete, or leave it out")
	case body.Body == nil:
		return nil, newError(http.StatusBadRequest, `the body must be {"streamId":"…","body":…}`)
	case body.Key != nil && !broker.ValidKey(key):
		return nil, newError(http.StatusBadRequest, "key: use 1 to 255 visible ASCII characters")
	}
	m, err := broker.NewMessage(string(body.StreamID), body.Body, key)
	if err != nil {
		return nil, err
	}
	p, err := topics.PublishTopic(r.Context(), name, m, full, v.Limits)
	return PublishReply{Members: p.Members, Accepted: p.Accepted, Full: p.Full}, err
}

// closeTopic ends a topic, as done unless the body says otherwise.
func closeTopic(v View, r *http.Request, topics broker.Topics, name string) (any, error) {
	body := struct {
		As       string          `json:"as"`
		StreamID jsontext.String `json:"streamId"`
	}{broker.EndDone, jsontext.String(name)}
	if err := parseBody(r, &body); err != nil {
		return nil, err
	}
	if body.As != broker.EndDone && body.As != broker.EndAborted {
		return nil, newError(http.StatusBadRequest, "as: use "+strings.Join([]string{broker.EndDone, broker.EndAborted}, " or "))
	}
	end, err := broker.NewEnd(string(body.StreamID), body.As)
	if err != nil {
		return nil, err
	}
	if err := topics.CloseTopic(r.Context(), name, end, v.Limits); err != nil {
		return nil, err
	}
	return showTopic(v, r, topics, name)
}

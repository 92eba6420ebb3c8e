package megaphone

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// A Join says which topic a channel joins, and what of its memory it gets first (2.12).
type Join struct {
	Topic string
	// Last is how many of the newest kept messages the channel gets, or [LastAll].
	Last int
}

// LastAll is a [Join].Last that asks for all kept messages.
const LastAll = -1

// MarshalJSON returns what the body of a create request has.
func (j Join) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Topic string `json:"topic"`
		Last  any    `json:"last"`
	}{j.Topic, j.last()})
}

func (j Join) last() any {
	if j.Last == LastAll {
		return "all"
	}
	return j.Last
}

// What becomes of members that have no room for a published message: they miss it, by default.
const (
	FullHold   = "hold"   // Publish waits until they have room, as Write does; after that they miss it
	FullDelete = "delete" // their channels are deleted
)

// Published says what became of a published message.
type Published struct {
	// Members is how many members the topic has, Accepted how many of them have taken the message, and Full how many had no
	// room for it.
	Members, Accepted, Full int
}

// Publish publishes a message to a topic. full is empty, [FullHold] or [FullDelete]. It fails with [ErrTopicClosed], and with
// [ErrUncertain] as Write does. The site must serve the endpoint publish.
func (c *Client) Publish(ctx context.Context, topic string, m Message, full string) (p Published, err error) {
	query := url.Values{}
	if full != "" {
		query.Set("full", full)
	}
	reply, err := c.write(ctx, "/publish/"+url.PathEscape(topic), query, m)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(reply, &p); err != nil {
		return p, uncertain{fmt.Errorf("cannot decode the reply: %w", err)}
	}
	return p, nil
}

// Join makes the channel of a producer address a member of a topic. If it is one, nothing happens. It fails with [ErrNotFound] if
// the channel is gone. The site must serve the endpoint topics, here and in the other calls for topics.
func (c *Client) Join(ctx context.Context, producer string, j Join) error {
	query := url.Values{}
	if j.Last != 0 {
		query.Set("last", fmt.Sprint(j.last()))
	}
	_, err := c.call(ctx, request{method: http.MethodPut, path: memberPath(j.Topic, producer), query: query}, nil, nil)
	return err
}

// Leave ends the membership of the channel of a producer address. If there is none, nothing happens.
func (c *Client) Leave(ctx context.Context, producer, topic string) error {
	_, err := c.call(ctx, request{method: http.MethodDelete, path: memberPath(topic, producer)}, nil, nil)
	return err
}

func memberPath(topic, producer string) string {
	return "/topic/" + url.PathEscape(topic) + "/" + url.PathEscape(producer)
}

// Keep is the memory of a topic.
type Keep struct {
	// Bytes is how much the topic keeps of its newest messages, such as "1MB". "0" means nothing, and empty means as the server's
	// setting topic_keep says.
	Bytes string `json:"keep,omitempty"`
	// TTL is how long it keeps them after the last message if it has no member, such as "1h". Empty means as the server's setting
	// topic_ttl says.
	TTL string `json:"ttl,omitempty"`
}

// KeepTopic sets the memory of a topic.
func (c *Client) KeepTopic(ctx context.Context, topic string, k Keep) error {
	_, err := c.call(ctx, request{method: http.MethodPut, path: "/topic/" + url.PathEscape(topic)}, k, nil)
	return err
}

// CloseTopic ends a topic. how is "done" or "aborted". Its members get a last event of the stream, with [Event].End. An empty
// stream id means the topic's name.
func (c *Client) CloseTopic(ctx context.Context, topic, how, streamID string) error {
	body := struct {
		As       string `json:"as"`
		StreamID string `json:"streamId,omitempty"`
	}{how, streamID}
	_, err := c.call(ctx, request{method: http.MethodPost, path: "/topic/" + url.PathEscape(topic) + "/close"}, body, nil)
	return err
}

// A TopicState is what a site says of a topic.
type TopicState struct {
	// Members is how many members the topic has, Connected how many of them have a reader, and Kept how many messages it keeps.
	Members, Connected, Kept int
	// Closed is how the topic ended, or empty.
	Closed string
}

// Topic returns the state of a topic. One that nobody has joined has no members; that is no error.
func (c *Client) Topic(ctx context.Context, topic string) (s TopicState, err error) {
	_, err = c.call(ctx, request{method: http.MethodGet, path: "/topic/" + url.PathEscape(topic)}, nil, &s)
	return s, err
}

package megaphone

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"time"
)

// A Channel is what a site says of a channel that it has created (1.3). Both addresses are secrets. The backend keeps the
// producer address, and hands the consumer address to the client.
type Channel struct {
	ProducerAddress string `json:"producerAddress"`
	ConsumerAddress string `json:"consumerAddress"`
	AgentName       string `json:"agentName"`
	// Protocols are those that were asked for and that the site serves (2.10).
	Protocols []string `json:"protocols"`
	// JSON is the whole reply of the server.
	JSON []byte `json:"-"`
}

// CreateOptions say how a channel is created.
type CreateOptions struct {
	// Protocols names the ways to read that the client knows (2.10); nil means NDJSON.
	Protocols []string `json:"protocols,omitempty"`
	// TTL is how long the channel lives without a reader, such as "10m"; empty means as the server's setting ttl says.
	TTL string `json:"ttl,omitempty"`
	// Topics are those that the channel joins. If it is not nil, even if empty, the channel knows topics: its consumer is sent
	// [Event].Missed and [Event].End (2.12). A site that does not serve topics refuses any that is named here.
	Topics []Join `json:"topics,omitzero"`
}

// Create creates a channel.
func (c *Client) Create(ctx context.Context, o CreateOptions) (created Channel, err error) {
	created.JSON, err = c.call(ctx, request{method: http.MethodPost, path: "/create"}, o, &created)
	return created, err
}

// A Message is an event to write.
type Message struct {
	// Channel is the producer address. [Client.WriteBatch] and [Client.Publish] do not use it.
	Channel string `json:"channel,omitempty"`
	// Topic, in place of Channel, makes [Ingest.Write] publish the message to a topic.
	Topic string `json:"topic,omitempty"`
	// StreamID says which stream of the channel the message belongs to. It is any text, but not empty.
	StreamID string `json:"streamId"`
	// Body is any value that [encoding/json] can marshal, such as a [json.RawMessage].
	Body any `json:"body"`
	// Key, if not empty, makes it safe to repeat the write (2.11): 1 to 255 visible ASCII characters.
	Key string `json:"key,omitempty"`
	// Merge, if not empty, says what becomes of the newest message of the channel if no reader was sent it yet (2.13): "replace"
	// takes its place, and "append" adds a text or an array to it.
	Merge string `json:"merge,omitempty"`
}

// Write writes a message, and returns once the channel holds it. While the channel is full, it waits as long as the server lets
// it. It fails with [ErrNotFound] if the channel is gone, and with [ErrUncertain] if it is not known whether the channel holds
// the message. Any other error means that it does not.
func (c *Client) Write(ctx context.Context, m Message) error {
	_, err := c.write(ctx, "/write/"+url.PathEscape(m.Channel), nil, m)
	return err
}

// write sends one message to a path to which its stream id belongs.
func (c *Client) write(ctx context.Context, path string, query url.Values, m Message) (reply []byte, err error) {
	body, err := encode(m.Body)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Content-Type": {jsonType}}
	if m.Key != "" {
		header.Set("Idempotency-Key", m.Key)
	}
	if m.Merge != "" {
		header.Set("Megaphone-Merge", m.Merge)
	}
	path += "/" + url.PathEscape(m.StreamID)
	return c.fetch(ctx, request{method: http.MethodPost, path: path, query: query, header: header, body: bytes.NewReader(body)})
}

// A Failure is a message that a channel has not taken.
type Failure struct {
	// Channel is the producer address as it was given.
	Channel string `json:"channel"`
	// Topic, in place of Channel, is the topic of a message that was not published.
	Topic string `json:"topic,omitempty"`
	// Index is the message's number, from 0: in the batch, or in the stream.
	Index int `json:"index"`
	// Reason is the code of an [Error], or SKIPPED if an earlier message for the channel was not taken.
	Reason string `json:"reason"`
}

// WriteBatch writes every message to every one of the channels, which are producer addresses, and returns what failed (1.5).
func (c *Client) WriteBatch(ctx context.Context, channels []string, ms []Message) ([]Failure, error) {
	body := struct {
		Channels []string  `json:"channels"`
		Messages []Message `json:"messages"`
	}{channels, ms}
	var reply struct{ Failures []Failure }
	_, err := c.call(ctx, request{method: http.MethodPost, path: "/write-batch"}, body, &reply)
	return reply.Failures, err
}

// A State is what a site says of a channel (2.9).
type State struct {
	Connected         bool
	Pending, InFlight int
	Created           time.Time
	LastRead, Expires *time.Time // nil if it was never read, and nil while it has a reader
}

// State returns the state of the channel that an address of either kind names. The site must serve the endpoint manage.
func (c *Client) State(ctx context.Context, address string) (s State, err error) {
	_, err = c.call(ctx, request{method: http.MethodGet, path: "/channel/" + url.PathEscape(address)}, nil, &s)
	return s, err
}

// Delete deletes the channel that an address of either kind names. The site must serve the endpoint manage.
func (c *Client) Delete(ctx context.Context, address string) error {
	_, err := c.call(ctx, request{method: http.MethodDelete, path: "/channel/" + url.PathEscape(address)}, nil, nil)
	return err
}

// Exist tells which of the channels, named by addresses of either kind, exist (1.7).
func (c *Client) Exist(ctx context.Context, addresses []string) (map[string]bool, error) {
	var reply struct{ Channels map[string]bool }
	body := map[string][]string{"channels": addresses}
	_, err := c.call(ctx, request{method: http.MethodPost, path: "/channelsExists"}, body, &reply)
	return reply.Channels, err
}

package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// A Channel describes a channel in a reply. Its times are in UTC.
type Channel struct {
	// ID names the channel for operators. It is not a secret.
	ID string `json:"id"`
	// Agent is the first part of the channel's addresses.
	Agent string `json:"agent"`
	// Producer and Consumer are only the beginning of each address.
	Producer string `json:"producer"`
	Consumer string `json:"consumer"`
	// Connected says whether the channel has a reader.
	Connected bool `json:"connected"`
	// Pending and InFlight count the messages that the channel holds.
	Pending  int `json:"pending"`
	InFlight int `json:"inFlight"`

	Created time.Time `json:"created"`
	// LastRead is nil if nobody has read the channel yet.
	LastRead *time.Time `json:"lastRead"`
	// Expires is nil while the channel has a reader.
	Expires *time.Time `json:"expires"`
	// CloseCode is the code with which the last WebSocket that read the channel was closed by its client, if it says what
	// was wrong, such as 1009 for a message that is too large for the client.
	CloseCode int `json:"closeCode,omitempty"`

	// Messages are the oldest messages, if the request asks for them.
	Messages []Message `json:"messages,omitempty"`
	// MoreMessages says that some of the messages that the request asks for are missing, because the reply would be too
	// large.
	MoreMessages bool `json:"moreMessages,omitempty"`
}

// A Message is a message that a channel holds.
type Message struct {
	// InFlight says that the message is in flight, not pending.
	InFlight bool `json:"inFlight"`
	// Message is the JSON object that readers get.
	Message json.RawMessage `json:"message"`
}

func newChannel(v View, c broker.ChannelInfo) Channel {
	agent, _, _ := strings.Cut(c.Consumer, ".")
	return Channel{
		ID: c.ID, Agent: agent, Producer: broker.RedactAddress(c.Producer), Consumer: broker.RedactAddress(c.Consumer),
		Connected: c.Connected, Pending: c.Pending, InFlight: c.InFlight,
		Created: c.Created.UTC(), LastRead: httpjson.TimeOrNull(c.LastRead), Expires: httpjson.TimeOrNull(c.Expires),
		CloseCode: v.CloseCode(c.Consumer),
	}
}

// A ListReply is one page of the list of channels.
type ListReply struct {
	Channels []Channel `json:"channels"`
	// Next is the cursor of the next page, or empty on the last page. A page may be empty without being the last one.
	Next string `json:"next,omitempty"`
}

const (
	// MaxPage is the most channels that a request can get in one page of the list.
	MaxPage = 1000
	// defaultPage is the most channels in a page if the request has no limit.
	defaultPage = 100
)

// list serves a page of the list of channels.
func list(v View, r *http.Request) (int, any, error) {
	o, err := parseListOptions(r.URL)
	if err != nil {
		return 0, nil, newError(http.StatusBadRequest, err.Error())
	}
	page, err := v.Broker.List(r.Context(), o)
	if err != nil {
		return 0, nil, err
	}
	reply := ListReply{Channels: make([]Channel, 0, len(page.Channels)), Next: page.Next}
	for _, c := range page.Channels {
		reply.Channels = append(reply.Channels, newChannel(v, c))
	}
	return http.StatusOK, reply, nil
}

// show serves one channel and, if the request asks for them, its oldest messages.
func show(v View, r *http.Request) (int, any, error) {
	info, err := findByID(v, r)
	if err != nil {
		return 0, nil, err
	}
	channel := newChannel(v, info)
	limit, err := parseMessageLimit(v, r)
	if err != nil {
		return 0, nil, err
	}
	if limit > 0 {
		messages, err := v.Broker.Peek(r.Context(), info.Consumer, limit)
		if err != nil {
			return 0, nil, err
		}
		channel.addMessages(messages)
	}
	return http.StatusOK, channel, nil
}

// maxMessageBytes is the most bytes of messages in a reply. The first message may be larger.
const maxMessageBytes = 16 << 20

// addMessages adds the channel's oldest messages, as many as fit into a reply.
func (c *Channel) addMessages(messages []*broker.Message) {
	size := 0
	for i, m := range messages {
		// The first message is always shown. Otherwise the API would never show anything of a channel with large messages.
		if size += len(m.JSON()); size > maxMessageBytes && i > 0 {
			c.MoreMessages = true
			return
		}
		c.Messages = append(c.Messages, Message{InFlight: i < c.InFlight, Message: m.JSON()})
	}
}

// findByID finds the channel whose id is in the request's path.
func findByID(v View, r *http.Request) (broker.ChannelInfo, error) {
	id := r.PathValue("id")
	if strings.Contains(id, ".") {
		return broker.ChannelInfo{}, newError(http.StatusBadRequest,
			"an address is a secret, and paths are logged: send the address in the body of a request to /megaphone/lookup")
	}
	return v.Broker.Find(r.Context(), id)
}

// A DeleteReply is the result of a deletion.
type DeleteReply struct {
	// Deleted is how many channels were deleted.
	Deleted int `json:"deleted"`
	// NotFound has the ids and addresses that name no channel, as the request has them. It is never nil.
	NotFound []string `json:"notFound"`
}

// deleteOne deletes the channel whose id is in the path.
func deleteOne(v View, r *http.Request) (int, any, error) {
	info, err := findByID(v, r)
	if err != nil {
		return 0, nil, err
	}
	if err := v.Broker.Delete(r.Context(), info.Consumer); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, DeleteReply{Deleted: 1, NotFound: []string{}}, nil
}

// deleteMany deletes the channels that the body names.
func deleteMany(v View, r *http.Request) (int, any, error) {
	deleted := 0
	notFound, err := forEachChannel(v, r, func(info broker.ChannelInfo) error {
		err := v.Broker.Delete(r.Context(), info.Consumer)
		if err == nil {
			deleted++
		}
		return err
	})
	if err != nil {
		return 0, nil, haltedError(err, deleted, "deleted")
	}
	return http.StatusOK, DeleteReply{Deleted: deleted, NotFound: notFound}, nil
}

// A LookupReply is the result of a lookup.
type LookupReply struct {
	// Channels has the channels in the sorted order of the names in the request. A channel with two names appears
	// twice.
	Channels []Channel `json:"channels"`
	// NotFound has the ids and addresses that name no channel, as the request has them. It is never nil.
	NotFound []string `json:"notFound"`
}

// lookup serves the channels that the body names.
func lookup(v View, r *http.Request) (int, any, error) {
	channels := []Channel{}
	notFound, err := forEachChannel(v, r, func(info broker.ChannelInfo) error {
		channels = append(channels, newChannel(v, info))
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, LookupReply{Channels: channels, NotFound: notFound}, nil
}

// haltedError adds to an error that has ended a request halfway how many channels it has changed before.
func haltedError(err error, changed int, how string) error {
	if changed == 0 {
		return err
	}
	e, ok := errors.AsType[caddy.APIError](withStatus(err))
	if !ok {
		return err
	}
	e.Message = fmt.Sprintf("%s; channels %s before that: %d", e.Message, how, changed)
	return e
}

// forEachChannel calls do for each channel that the request's body names. It returns the names for which there is no
// channel, or for which do returns [broker.ErrNotFound]. Any other error ends it.
func forEachChannel(v View, r *http.Request, do func(info broker.ChannelInfo) error) (notFound []string, err error) {
	names, err := parseNames(r)
	if err != nil {
		return nil, err
	}
	return forEachName(v, r, names, do)
}

// forEachName does what forEachChannel does, for channels of these names.
func forEachName(v View, r *http.Request, names []string, do func(info broker.ChannelInfo) error) (notFound []string, err error) {
	notFound = []string{}
	for _, name := range names {
		info, err := v.Broker.Find(r.Context(), name)
		if err == nil {
			err = do(info)
		}
		switch {
		case errors.Is(err, broker.ErrNotFound):
			notFound = append(notFound, name)
		case err != nil:
			return nil, err
		}
	}
	return notFound, nil
}

// Package backend is the backend of the demo, a chat with rooms. It talks to Megaphone by HTTP only. Each room is a topic,
// whose memory is the room's history. The backend itself remembers nothing: neither who is there nor what was said.
package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"regexp"
	"time"
)

var validRoom, validID = regexp.MustCompile(`^[a-z0-9-]{1,30}$`), regexp.MustCompile(`^[a-zA-Z0-9-]{8,64}$`)

// hints is what follows a room's name in the name of the topic for what nobody needs later: who is there, and who is typing.
const hints = " hints"

// A Chat serves pages below /api/.
type Chat struct {
	*http.ServeMux

	megaphone string // its URL
}

// New returns a chat that reaches Megaphone at the URL.
func New(url string) *Chat {
	c := &Chat{ServeMux: http.NewServeMux(), megaphone: url}
	c.HandleFunc("POST /api/{what}", c.serve)
	return c
}

// A request comes from a page. ID and Text are of a message, and Via of a hint: how the page is connected.
type request struct {
	Room, Kind, User, Name, ID, Text, Via string
}

// An event is what pages of a room get: a message, or the hint that somebody is here, is typing, or has left.
type event struct {
	Kind string    `json:"kind"`
	User string    `json:"user"`
	Name string    `json:"name"`
	Via  string    `json:"via,omitempty"`
	ID   string    `json:"id,omitempty"` // from the page, which repeats a message with the same id until it gets an answer
	Text string    `json:"text,omitempty"`
	At   time.Time `json:"at"`
}

var errMalformed = errors.New("malformed request")

// serve handles enter, say and hint.
func (c *Chat) serve(w http.ResponseWriter, r *http.Request) {
	var asked request
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10)).Decode(&asked)
	do := map[string]func(context.Context, request) (any, error){"enter": c.enter, "say": c.say, "hint": c.hint}[r.PathValue("what")]
	if err != nil || do == nil || !validRoom.MatchString(asked.Room) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	reply, err := do(r.Context(), asked)
	switch {
	case errors.Is(err, errMalformed):
		w.WriteHeader(http.StatusBadRequest)
	case err != nil:
		log.Print(err)
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		_ = json.NewEncoder(w).Encode(reply)
	}
}

// enter gives a page a channel that gets what was said in a room, and then what will be.
func (c *Chat) enter(ctx context.Context, r request) (any, error) {
	var channel struct {
		ConsumerAddress string `json:"consumerAddress"`
	}
	topics := []any{map[string]string{"topic": r.Room, "last": "all"}, r.Room + hints}
	err := c.remember(ctx, r.Room)
	if err == nil {
		err = c.send(ctx, http.MethodPost, "/create", "", map[string]any{"topics": topics}, &channel)
	}
	return channel, err
}

// say sends a message to everybody in a room. The page repeats a message until say succeeds. The message's id is also its
// key, so nobody gets it twice.
func (c *Chat) say(ctx context.Context, r request) (any, error) {
	if !validID.MatchString(r.ID) || !validID.MatchString(r.User) || r.Name == "" || len(r.Name) > 120 || r.Text == "" {
		return nil, errMalformed
	}
	err := c.remember(ctx, r.Room)
	if err == nil {
		said := event{Kind: "message", User: r.User, Name: r.Name, ID: r.ID, Text: r.Text, At: time.Now().UTC()}
		err = c.send(ctx, http.MethodPost, "/publish/"+r.Room+"/"+r.Room, r.ID, said, nil)
	}
	return nil, err
}

// hint tells everybody in a room something about a user. It may be lost.
func (c *Chat) hint(ctx context.Context, r request) (any, error) {
	if !validID.MatchString(r.User) || len(r.Name) > 120 || len(r.Kind) > 10 || len(r.Via) > 20 {
		return nil, errMalformed
	}
	return nil, c.send(ctx, http.MethodPost, "/publish/"+r.Room+"%20hints/"+r.Room, "", event{Kind: r.Kind, User: r.User, Name: r.Name, Via: r.Via}, nil)
}

// remember makes a room keep what is said. Megaphone may have been restarted since the last time.
func (c *Chat) remember(ctx context.Context, room string) error {
	return c.send(ctx, http.MethodPut, "/topic/"+room, "", map[string]string{"keep": "1MB", "ttl": "24h"}, nil)
}

// send sends a request to Megaphone.
func (c *Chat) send(ctx context.Context, method, path, key string, body, reply any) error {
	text, _ := json.Marshal(body) // cannot fail
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.megaphone+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	if reply == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(reply)
}

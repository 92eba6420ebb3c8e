// Package backend is the backend of the demo, a chat with rooms. It talks to Megaphone by HTTP only: it creates a
// channel for each page, and writes to the channels of everybody in a room.
package backend

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"
)

const maxMessages, maxHistory = 5000, 200 // per room; that a page gets when it joins
var validRoom, validID = regexp.MustCompile(`^[a-z0-9-]{1,30}$`), regexp.MustCompile(`^[a-zA-Z0-9-]{8,64}$`)

// A message has a number in its room, counted from 1. So a page knows when it has missed messages.
type message struct {
	N    int       `json:"n"`
	ID   string    `json:"id"` // from the page, which repeats a message with the same id until it gets an answer
	User string    `json:"user"`
	Name string    `json:"name"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// A session is a page: its user, its room, and the addresses that Megaphone gave its channel.
type session struct{ User, Name, Room, ProducerAddress, ConsumerAddress string }

// A Chat serves pages below /api/.
type Chat struct {
	*http.ServeMux
	megaphone, file string     // Megaphone's URL; the file that keeps the memory for the next start
	mu              sync.Mutex // held during calls to Megaphone too, so that messages go out in the order of their numbers
	memory          struct {
		Rooms    map[string][]message
		Sessions map[string]session // by consumer address, a secret that only the page itself knows
	}
}

// New returns the chat. It reaches Megaphone at the URL, and keeps rooms and sessions in the file.
func New(url, file string) (*Chat, error) {
	c := &Chat{ServeMux: http.NewServeMux(), megaphone: url, file: file}
	c.memory.Rooms, c.memory.Sessions = map[string][]message{}, map[string]session{}
	text, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err == nil {
		err = json.Unmarshal(text, &c.memory)
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("the chat's memory, %s: %w", file, err)
	}
	c.HandleFunc("POST /api/{what}", c.serve)
	return c, nil
}

// Run sends all pages a list of who is there every 5 seconds, until ctx ends. So it notices pages that left silently.
func (c *Chat) Run(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(5 * time.Second) {
		c.mu.Lock()
		for room := range c.memory.Rooms {
			_ = c.tell(room, "people", message{})
		}
		c.mu.Unlock()
	}
}

// A request comes from a page. After is the number of the newest message that the page has.
type request struct {
	Session, User, Name, Room, ID, Text string
	After                               int
}

// serve handles join, say and leave, one request at a time.
func (c *Chat) serve(w http.ResponseWriter, r *http.Request) {
	var asked request
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10)).Decode(&asked)
	do := map[string]func(request) (int, any){"join": c.join, "say": c.say, "leave": c.leave}[r.PathValue("what")]
	status, reply := http.StatusBadRequest, any(nil)
	if err == nil && do != nil && validRoom.MatchString(asked.Room) {
		c.mu.Lock()
		status, reply = do(asked)
		c.mu.Unlock()
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply)
}

// join brings a page into a room, and gives it a channel if it has none. Pages also call it to get what they missed.
func (c *Chat) join(r request) (status int, reply any) {
	if !validID.MatchString(r.User) || r.Name == "" || len(r.Name) > 120 {
		return http.StatusBadRequest, nil
	}
	s, known := c.memory.Sessions[r.Session]
	if !known && c.post("/create", nil, &s) != nil {
		return http.StatusServiceUnavailable, nil
	}
	left, messages := s.Room, c.memory.Rooms[r.Room]
	s.User, s.Name, s.Room = r.User, r.Name, r.Room
	c.memory.Sessions[s.ConsumerAddress], c.memory.Rooms[r.Room] = s, messages // the first page makes the room
	c.save()
	_ = c.tell(left, "people", message{})
	_ = c.tell(r.Room, "people", message{})
	missed := messages[max(0, len(messages)-maxHistory, min(r.After, len(messages))):]
	return http.StatusOK, map[string]any{"consumerAddress": s.ConsumerAddress, "messages": missed, "newest": len(messages)}
}

// say sends a message to everybody in a room. A message without a text says that its user is typing. The page repeats a
// message until say succeeds. The message's id is also its key, so nobody gets it twice.
func (c *Chat) say(r request) (status int, reply any) {
	s, known := c.memory.Sessions[r.Session]
	messages := c.memory.Rooms[r.Room]
	m := message{len(messages) + 1, r.ID, s.User, s.Name, r.Text, time.Now().UTC()}
	repeated := slices.IndexFunc(messages, func(other message) bool { return other.ID == m.ID })
	switch {
	case !known:
		return http.StatusNotFound, nil
	case m.Text == "":
		_ = c.tell(r.Room, "typing", m) // it may be lost
		return http.StatusOK, nil
	case repeated >= 0:
		m = messages[repeated]
	case !validID.MatchString(m.ID) || len(messages) >= maxMessages:
		return http.StatusForbidden, nil
	default:
		c.memory.Rooms[r.Room] = append(messages, m)
		c.save()
	}
	if c.tell(r.Room, "message", m) != nil {
		return http.StatusServiceUnavailable, nil
	}
	return http.StatusOK, m
}

func (c *Chat) leave(r request) (status int, reply any) {
	delete(c.memory.Sessions, r.Session)
	_ = c.tell(r.Room, "people", message{})
	return http.StatusOK, nil
}

// tell sends everybody in a room what has happened, who is there, and how many messages there are. The room is the
// stream id. If a channel is gone, its page has left.
func (c *Chat) tell(room, kind string, m message) error {
	people, sessions := map[string]string{}, map[string]string{} // from user to name; from producer to consumer address
	for _, s := range c.memory.Sessions {
		if s.Room == room {
			people[s.User] = s.Name
			sessions[s.ProducerAddress] = s.ConsumerAddress
		}
	}
	if len(sessions) == 0 {
		return nil
	}
	event := map[string]any{"kind": kind, "what": m, "people": people, "newest": len(c.memory.Rooms[room])}
	message := map[string]any{"streamId": room, "key": cmp.Or(m.ID, rand.Text()), "body": event}
	batch := map[string]any{"channels": slices.Collect(maps.Keys(sessions)), "messages": []any{message}}
	type failure struct{ Channel, Reason string }
	var reply struct{ Failures []failure }
	err := c.post("/write-batch", batch, &reply)
	for _, f := range reply.Failures {
		if f.Reason == "NOT_FOUND" {
			delete(c.memory.Sessions, sessions[f.Channel])
		}
	}
	return err
}

// post sends a request to Megaphone.
func (c *Chat) post(path string, body, reply any) error {
	text, _ := json.Marshal(body) // cannot fail
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Post(c.megaphone+path, "application/json", bytes.NewReader(text)) //nolint:noctx // see above
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(reply)
}

// save writes messages and sessions to the file, for the next start.
func (c *Chat) save() {
	text, _ := json.Marshal(c.memory) // cannot fail
	err := os.WriteFile(c.file+".new", text, 0o600)
	if err == nil {
		err = os.Rename(c.file+".new", c.file)
	}
	if err != nil {
		log.Print("the chat's memory: ", err)
	}
}

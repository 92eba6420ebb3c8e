// Package backend is the backend of the demo: a chat with rooms. All it knows of Megaphone is HTTP: it creates a
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

const maxMessages, maxHistory = 5000, 200 // of a room; and that a page gets when it comes
var validRoom, validID = regexp.MustCompile(`^[a-z0-9-]{1,30}$`), regexp.MustCompile(`^[a-zA-Z0-9-]{8,64}$`)

// A message is numbered in its room, from 1, so that a page knows when it has missed some.
type message struct {
	N    int       `json:"n"`
	ID   string    `json:"id"` // the page's: it repeats a message under the same one until it gets an answer
	User string    `json:"user"`
	Name string    `json:"name"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// A session is a page: whose it is, in which room, and its channel, as Megaphone has named it.
type session struct{ User, Name, Room, ProducerAddress, ConsumerAddress string }

// A Chat serves pages below /api/.
type Chat struct {
	*http.ServeMux
	megaphone, file string     // Megaphone's URL; and where the memory is kept for the next start
	mu              sync.Mutex // held over calls to Megaphone too, so that messages go out in the order of their numbers
	memory          struct {
		Rooms    map[string][]message
		Sessions map[string]session // by consumer addresses, each a secret that only its page has
	}
}

// New returns the chat. It reaches Megaphone at a URL, and keeps what it must not forget in a file.
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

// Run tells pages every 5 seconds who is there, until the context ends. So it finds out who has gone without a word.
func (c *Chat) Run(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(5 * time.Second) {
		c.mu.Lock()
		for room := range c.memory.Rooms {
			_ = c.tell(room, "people", message{})
		}
		c.mu.Unlock()
	}
}

// A request is what a page asks for. After is the number of the newest message that the page has.
type request struct {
	Session, User, Name, Room, ID, Text string
	After                               int
}

// serve lets one page at a time join, say, or leave.
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

// join brings a page into a room, and gives it a channel unless it has one. Pages also call it for what they missed.
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
	c.memory.Sessions[s.ConsumerAddress], c.memory.Rooms[r.Room] = s, messages // a room exists once somebody has come
	c.save()
	_ = c.tell(left, "people", message{})
	_ = c.tell(r.Room, "people", message{})
	missed := messages[max(0, len(messages)-maxHistory, min(r.After, len(messages))):]
	return http.StatusOK, map[string]any{"consumerAddress": s.ConsumerAddress, "messages": missed, "newest": len(messages)}
}

// say sends a message to everybody in a room; without a text, that somebody is typing. The page repeats a message
// until that has worked; its id is its key too, so that nobody gets it twice.
func (c *Chat) say(r request) (status int, reply any) {
	s, known := c.memory.Sessions[r.Session]
	messages := c.memory.Rooms[r.Room]
	m := message{len(messages) + 1, r.ID, s.User, s.Name, r.Text, time.Now().UTC()}
	repeated := slices.IndexFunc(messages, func(other message) bool { return other.ID == m.ID })
	switch {
	case !known:
		return http.StatusNotFound, nil
	case m.Text == "":
		_ = c.tell(r.Room, "typing", m) // nobody misses it
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

// tell sends to everybody in a room what has happened, who is there, and how many messages there are. The stream is
// named after the room. Whose channel is gone has left.
func (c *Chat) tell(room, kind string, m message) error {
	people, sessions := map[string]string{}, map[string]string{} // names by users; consumer by producer addresses
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

// save keeps messages and sessions for the next start.
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

// Package backend is the backend of the demo: a chat with rooms. All it knows of Megaphone is HTTP: it creates a
// channel for each page, and writes to the channels of everybody in a room.
package backend

import (
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

const (
	presence                = 5 * time.Second // how often pages are told who is there, and how many messages there are
	maxMessages, maxHistory = 5000, 200       // of a room; and that a page is told when it comes
)

// A message is numbered in its room, from 1, so that a page knows when it has missed some.
type message struct {
	N    int       `json:"n"`
	ID   string    `json:"id"` // the page's: it repeats a message under the same one until it gets an answer
	User string    `json:"user"`
	Name string    `json:"name"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// A session is a page: whose it is, in which room, and the addresses of the channel by which it is reached.
type session struct{ User, Name, Room, Producer, Consumer string }

// A Chat serves pages below /api/.
type Chat struct {
	*http.ServeMux
	megaphone megaphone
	file      string
	// mu is held over calls to Megaphone too, so that messages go out in the order of their numbers.
	mu     sync.Mutex
	memory struct {
		Rooms    map[string][]message
		Sessions map[string]*session // by a secret that the page has
	}
}

// New returns the chat. It reaches Megaphone at a URL, and keeps what it must not forget in a file.
func New(url, file string) (*Chat, error) {
	c := &Chat{ServeMux: http.NewServeMux(), megaphone: megaphone(url), file: file}
	c.memory.Rooms, c.memory.Sessions = map[string][]message{}, map[string]*session{}
	if text, err := os.ReadFile(file); err == nil { //nolint:gosec // the operator names it
		if err := json.Unmarshal(text, &c.memory); err != nil {
			return nil, fmt.Errorf("the chat's memory, %s: %w", file, err)
		}
	}
	c.HandleFunc("POST /api/join", c.handle(c.join))
	c.HandleFunc("POST /api/say", c.handle(c.say))
	c.HandleFunc("POST /api/leave", c.handle(c.leave))
	return c, nil
}

// Run tells pages who is there, until the context ends. That also finds out who has gone without a word.
func (c *Chat) Run(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(presence) {
		c.mu.Lock()
		rooms := map[string]bool{}
		for _, s := range c.memory.Sessions {
			rooms[s.Room] = true
		}
		for room := range rooms {
			c.tellPeople(room)
		}
		c.mu.Unlock()
	}
}

// A request is what a page asks for.
type request struct {
	Session, User, Name, Room, ID, Text string
	Renew                               bool // the page's channel is gone
	After                               int  // the number of the newest message that the page has
}

var validRoom, validID = regexp.MustCompile(`^[a-z0-9-]{1,30}$`), regexp.MustCompile(`^[a-zA-Z0-9-]{8,64}$`)

func (c *Chat) handle(serve func(*request) (status int, reply any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked request
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10)).Decode(&asked)
		if err != nil || !validRoom.MatchString(asked.Room) {
			http.Error(w, "malformed", http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		status, reply := serve(&asked)
		c.mu.Unlock()
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(reply)
	}
}

// join brings a page into a room, and gives it a channel unless it has one. Pages also call it for what they missed.
func (c *Chat) join(r *request) (status int, reply any) {
	if !validID.MatchString(r.User) || r.Name == "" || len(r.Name) > 120 {
		return http.StatusBadRequest, nil
	}
	s := c.memory.Sessions[r.Session]
	if s == nil || r.Renew {
		producer, consumer, err := c.megaphone.create()
		if err != nil {
			return http.StatusServiceUnavailable, nil
		}
		delete(c.memory.Sessions, r.Session)
		r.Session, s = rand.Text(), &session{Producer: producer, Consumer: consumer}
	}
	left, messages := s.Room, c.memory.Rooms[r.Room]
	s.User, s.Name, s.Room, c.memory.Sessions[r.Session] = r.User, r.Name, r.Room, s
	c.save()
	c.tellPeople(left)
	c.tellPeople(r.Room)
	missed := messages[max(0, len(messages)-maxHistory, min(r.After, len(messages))):]
	return http.StatusOK, map[string]any{"session": r.Session, "consumerAddress": s.Consumer, "messages": missed, "newest": len(messages)}
}

// say sends a message to everybody in a room; without a text, that somebody is typing. The page repeats a message
// until that has worked; its id is its key too, so that nobody gets it twice.
func (c *Chat) say(r *request) (status int, reply any) {
	s, messages := c.memory.Sessions[r.Session], c.memory.Rooms[r.Room]
	i := slices.IndexFunc(messages, func(m message) bool { return m.ID == r.ID })
	switch {
	case s == nil:
		return http.StatusNotFound, nil
	case r.Text == "":
		_ = c.tell(r.Room, "typing", rand.Text(), map[string]string{"user": s.User, "name": s.Name}) // nobody misses it
		return http.StatusOK, nil
	case i < 0 && (!validID.MatchString(r.ID) || len(messages) >= maxMessages):
		return http.StatusForbidden, nil
	case i < 0:
		i = len(messages)
		messages = append(messages, message{i + 1, r.ID, s.User, s.Name, r.Text, time.Now().UTC()})
		c.memory.Rooms[r.Room] = messages
		c.save()
	}
	if c.tell(r.Room, "message", r.ID, messages[i]) != nil {
		return http.StatusServiceUnavailable, nil
	}
	return http.StatusOK, messages[i]
}

func (c *Chat) leave(r *request) (status int, reply any) {
	delete(c.memory.Sessions, r.Session)
	c.save()
	c.tellPeople(r.Room)
	return http.StatusOK, nil
}

// tellPeople tells a room's pages who is there, and how many messages there are. If that fails, Run repeats it.
func (c *Chat) tellPeople(room string) {
	people := map[string]string{} // names by users
	for _, s := range c.memory.Sessions {
		if s.Room == room {
			people[s.User] = s.Name
		}
	}
	_ = c.tell(room, "people", rand.Text(), map[string]any{"people": people, "newest": len(c.memory.Rooms[room])})
}

// tell sends to everybody in a room. The stream is named after the room. Whose channel is gone has left.
func (c *Chat) tell(room, kind, key string, what any) error {
	sessions := map[string]string{} // by their producer addresses
	for secret, s := range c.memory.Sessions {
		if s.Room == room {
			sessions[s.Producer] = secret
		}
	}
	gone, err := c.megaphone.write(slices.Collect(maps.Keys(sessions)), room, key, map[string]any{"kind": kind, "what": what})
	for _, producer := range gone {
		delete(c.memory.Sessions, sessions[producer])
	}
	if len(gone) > 0 {
		c.tellPeople(room)
	}
	return err
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

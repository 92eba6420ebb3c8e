// Command rooms is a backend that keeps the list of who is in which room itself, and writes to each of their channels. That
// works with any site that serves create and write. Topics do the same with less: the server keeps the list. MEGAPHONE_URL is
// the URL of the server, such as http://127.0.0.1:3000.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// A channel has the addresses of a page's channel.
type channel struct{ ProducerAddress, ConsumerAddress string }

// rooms has the channels of each room by producer address. A process that forgets them loses its pages, so keep them in a
// database.
var (
	mu    sync.Mutex
	rooms = map[string]map[string]channel{}
)

// enter creates a channel for a page, and adds it to a room.
func enter(room string) (c channel, err error) {
	if err := post("/create", nil, &c); err != nil {
		return c, err
	}
	mu.Lock()
	defer mu.Unlock()
	if rooms[room] == nil {
		rooms[room] = map[string]channel{}
	}
	rooms[room][c.ProducerAddress] = c
	return c, nil
}

// tell writes a message to everybody in a room. A channel that does not exist any more has left the room.
func tell(room string, body any) error {
	mu.Lock()
	channels := slices.Collect(maps.Keys(rooms[room]))
	mu.Unlock()
	message := map[string]any{"streamId": room, "body": body}
	var reply struct {
		Failures []struct{ Channel, Reason string }
	}
	err := post("/write-batch", map[string]any{"channels": channels, "messages": []any{message}}, &reply)
	mu.Lock()
	defer mu.Unlock()
	for _, f := range reply.Failures {
		if f.Reason == "NOT_FOUND" {
			delete(rooms[room], f.Channel)
		} else {
			err = fmt.Errorf("not everybody has got the message: %s", f.Reason)
		}
	}
	return err
}

func post(path string, body, reply any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 30 * time.Second}                                                         // a full channel holds a write for up to 10 s
	response, err := client.Post(os.Getenv("MEGAPHONE_URL")+path, "application/json", bytes.NewReader(text)) //nolint:gosec,noctx // we choose the URL, and the timeout ends it
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(reply)
}

func main() {
	ann, err := enter("news")
	if err != nil {
		log.Fatal(err)
	}
	for _, text := range []string{"hello", "world"} {
		if err := tell("news", map[string]string{"text": text}); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(ann.ConsumerAddress) // a consumer reads the messages at /read/ plus this address
}

package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// megaphone is all that the chat knows of Megaphone: a URL, and two requests.
type megaphone string

var client = http.Client{Timeout: 10 * time.Second}

// create makes a channel. The page reads by the consumer address, the chat writes by the producer address.
func (m megaphone) create() (producer, consumer string, err error) {
	var reply struct{ ProducerAddress, ConsumerAddress string }
	err = m.post("/create", nil, &reply)
	return reply.ProducerAddress, reply.ConsumerAddress, err
}

// write sends a message to channels, and returns those that are no more. A repeat under the same key has no effect.
func (m megaphone) write(producers []string, stream, key string, body any) (gone []string, err error) {
	if len(producers) == 0 {
		return nil, nil
	}
	message := map[string]any{"streamId": stream, "key": key, "body": body}
	var reply struct {
		Failures []struct{ Channel, Reason string }
	}
	err = m.post("/write-batch", map[string]any{"channels": producers, "messages": []any{message}}, &reply)
	for _, failure := range reply.Failures {
		if failure.Reason == "NOT_FOUND" {
			gone = append(gone, failure.Channel)
		}
	}
	return gone, err
}

func (m megaphone) post(path string, body, reply any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, string(m)+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(reply)
}

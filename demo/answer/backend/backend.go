// Package backend is the backend of the demo of answers that stream. It talks to Megaphone by HTTP only. An answer is a
// topic: its first message is the question, and the pieces of the answer follow. The backend itself remembers none of it.
package backend

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log"
	"net/http"
	"regexp"
	"sync"
	"time"
)

const maxSeconds = 600 // of writing one answer

var validAnswer = regexp.MustCompile(`^answer-[A-Z2-7]{26}$`)

// A Backend serves pages below /api/.
type Backend struct {
	*http.ServeMux

	// Model answers a question, for about so many seconds, in pieces. The text of the answer is all pieces, joined.
	Model func(ctx context.Context, question string, seconds int) iter.Seq[string]

	megaphone string
	mu        sync.Mutex
	running   map[string]context.CancelFunc // stops the model, by answer
}

// New returns a backend that reaches Megaphone at the URL.
func New(url string) *Backend {
	b := &Backend{ServeMux: http.NewServeMux(), Model: StandIn, megaphone: url, running: map[string]context.CancelFunc{}}
	b.HandleFunc("POST /api/{what}", b.serve)
	return b
}

// A request comes from a page. Answer is what ask has replied.
type request struct {
	Answer, Question string
	Seconds          int
}

func (b *Backend) serve(w http.ResponseWriter, r *http.Request) {
	var asked request
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10)).Decode(&asked)
	what := r.PathValue("what")
	do := map[string]func(context.Context, request) (int, any){"ask": b.ask, "read": b.read, "check": b.check, "kill": b.kill}[what]
	status, reply := http.StatusBadRequest, any(nil)
	if err == nil && do != nil && (what == "ask" || validAnswer.MatchString(asked.Answer)) {
		status, reply = do(r.Context(), asked)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply)
}

// ask makes the topic of an answer, which keeps all of it for an hour, and starts the model. Anyone who knows the topic's
// random name may read the answer.
func (b *Backend) ask(ctx context.Context, r request) (status int, reply any) {
	if r.Question == "" || r.Seconds < 1 || r.Seconds > maxSeconds {
		return http.StatusBadRequest, nil
	}
	answer := "answer-" + rand.Text()
	err := errors.Join(
		b.call(ctx, http.MethodPut, "/topic/"+answer, map[string]string{"keep": "32MB", "ttl": "1h"}, nil),
		b.call(ctx, http.MethodPost, "/publish/"+answer+"/question", r.Question, nil))
	if err != nil {
		return unavailable(err)
	}
	ctx, kill := context.WithCancel(context.WithoutCancel(ctx))
	b.mu.Lock()
	b.running[answer] = kill
	b.mu.Unlock()
	go b.write(ctx, answer, b.Model(ctx, r.Question, r.Seconds))
	return http.StatusOK, map[string]string{"answer": answer}
}

// write streams an answer into its topic.
func (b *Backend) write(ctx context.Context, answer string, pieces iter.Seq[string]) {
	written, err := Stream(ctx, b.megaphone, answer, pieces)
	log.Printf("%s: %d pieces written, %v", answer, written, err)
	b.mu.Lock()
	b.running[answer]()
	delete(b.running, answer)
	b.mu.Unlock()
}

// read gives a page a channel of its own, which gets the answer from its start.
func (b *Backend) read(ctx context.Context, r request) (status int, reply any) {
	if status, reply := b.check(ctx, r); status != http.StatusOK {
		return status, reply
	}
	var channel struct {
		ConsumerAddress string `json:"consumerAddress"`
	}
	topics := []any{map[string]any{"topic": r.Answer, "last": "all"}}
	if err := b.call(ctx, http.MethodPost, "/create", map[string]any{"topics": topics}, &channel); err != nil {
		return unavailable(err)
	}
	return http.StatusOK, channel
}

// check ends an answer that nobody writes any more. Megaphone does that by itself when a producer dies, but not if it was
// killed together with the producer.
func (b *Backend) check(ctx context.Context, r request) (status int, reply any) {
	b.mu.Lock()
	running := b.running[r.Answer] != nil
	b.mu.Unlock()
	var topic struct {
		Kept   int
		Closed string
	}
	err := b.call(ctx, http.MethodGet, "/topic/"+r.Answer, nil, &topic)
	switch {
	case err != nil:
		return unavailable(err)
	case topic.Kept == 0 && topic.Closed == "":
		return http.StatusNotFound, nil // its hour is over
	case topic.Closed == "" && !running:
		if err := b.call(ctx, http.MethodPost, "/topic/"+r.Answer+"/close", map[string]string{"as": "aborted"}, nil); err != nil {
			return unavailable(err)
		}
	}
	return http.StatusOK, nil
}

// kill stops the model in the middle of a word, as a crash would.
func (b *Backend) kill(_ context.Context, r request) (status int, reply any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if kill := b.running[r.Answer]; kill != nil {
		kill()
	}
	return http.StatusOK, nil
}

func unavailable(err error) (status int, reply any) {
	log.Print(err)
	return http.StatusServiceUnavailable, nil
}

// call sends a request to Megaphone.
func (b *Backend) call(ctx context.Context, method, path string, body, reply any) error {
	text, _ := json.Marshal(body) // cannot fail
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, b.megaphone+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	if reply == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(reply)
}

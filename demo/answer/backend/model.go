package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"
)

// Stream writes an answer into its topic, in one request, piece by piece as they come. If a reader is slow, Megaphone joins
// pieces that it was not sent yet, so pieces never wait for readers. The topic ends with the request: as done, or as aborted
// if ctx ends before. Stream returns how many pieces the topic has taken, and an error unless it has taken all.
func Stream(ctx context.Context, megaphone, topic string, pieces iter.Seq[string]) (written int, err error) {
	body, lines := io.Pipe()
	defer func() { _ = body.Close() }() // never fails
	go func() {
		encoder := json.NewEncoder(lines)
		for piece := range pieces {
			if encoder.Encode(map[string]string{"topic": topic, "streamId": "text", "body": piece, "merge": "append"}) != nil {
				return // the request has ended
			}
		}
		_ = lines.CloseWithError(ctx.Err()) // nil is the end of the body
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, megaphone+"/write?close="+topic, body)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var result struct{ Written, FailuresTotal int }
	if err := json.NewDecoder(response.Body).Decode(&result); err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusCreated || result.FailuresTotal > 0 {
		err = fmt.Errorf("%s, %d pieces refused", response.Status, result.FailuresTotal)
	}
	return result.Written, err
}

// PiecesASecond is how fast the stand-in writes: as a quick language model.
const PiecesASecond = 60

// sentences are what the stand-in has to say.
var sentences = []string{
	"Each second brings sixty pieces of a few letters, and the page shows them as they come.",
	"Reload the page, and the whole answer is there again, because its topic keeps it.",
	"Open a second tab: it has a channel of its own and reads the same topic from the start.",
	"Close the lid for five minutes. What the page misses is joined into fewer, larger pieces.",
	"Reload Caddy meanwhile. The request that writes this goes on, and pages connect again.",
	"Stop the model in the middle of a word, and the page says that the answer is not complete.",
}

// Answer returns all pieces of the stand-in's answer to a question, without a pause.
func Answer(question string, seconds int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for second := range seconds {
			text := fmt.Sprintf("%d. %s\n", second+1, sentences[second%len(sentences)])
			if second == 0 {
				text = fmt.Sprintf("You asked: “%s” I am no language model, but I write like one.\n\n", question) + text
			}
			runes := []rune(text)
			for i := range PiecesASecond {
				if !yield(string(runes[i*len(runes)/PiecesASecond : (i+1)*len(runes)/PiecesASecond])) {
					return
				}
			}
		}
	}
}

// StandIn stands in for a language model: it writes [Answer] at its pace until ctx ends.
func StandIn(ctx context.Context, question string, seconds int) iter.Seq[string] {
	return func(yield func(string) bool) {
		ticker := time.NewTicker(time.Second / PiecesASecond)
		defer ticker.Stop()
		for piece := range Answer(question, seconds) {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if !yield(piece) {
				return
			}
		}
	}
}

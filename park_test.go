package megaphone_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestClientsThatComeAndGoGetEveryMessage checks clients that read over NDJSON and SSE, on connections that they keep. They
// abort reads, take over, and read again while producers write and the configuration is replaced. Each client gets every
// message, in order.
func TestClientsThatComeAndGoGetEveryMessage(t *testing.T) {
	const settings, channels, messages = "megaphone {\nread_duration %dms\nstream_duration %[1]dms\nheartbeat 20ms\n}", 12, 60
	s := serve(t, fmt.Sprintf(settings, 150), "megaphone")
	var all, writing sync.WaitGroup
	for n := range channels {
		c, random := s.create(), rand.New(rand.NewPCG(2, uint64(n)))
		writing.Go(func() {
			for i := range messages {
				if err := s.writeOnce(c, i); err != nil {
					t.Errorf("channel %d: %v", n, err)
					return
				}
			}
		})
		all.Go(func() {
			seen, err := s.readAtRandom(c, messages, random)
			if err != nil {
				t.Errorf("channel %d: %v after %d messages", n, err, len(seen))
				return
			}
			for i, body := range seen {
				if body != fmt.Sprint(i) {
					t.Errorf("channel %d: message %d has the body %s", n, i, body)
				}
			}
		})
	}
	for i := range 2 {
		s.reload(fmt.Sprintf(settings, 151+i), "megaphone")
	}
	writing.Wait()
	all.Wait()
}

// writeOnce writes a message with the body i. It repeats the write, with the same key, until the channel accepts it.
func (s *server) writeOnce(c channel, i int) error {
	for s.ctx.Err() == nil {
		r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, "http://localhost"+c.writePath(), strings.NewReader(fmt.Sprint(i)))
		if err != nil {
			return err
		}
		r.Header = http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {fmt.Sprint(i)}}
		response, err := s.client.Do(r)
		if err != nil {
			continue // the configuration is being replaced
		}
		response.Body.Close()
		if response.StatusCode == http.StatusCreated {
			return nil
		}
	}
	return s.ctx.Err()
}

// readAtRandom reads a channel until it has got a number of messages. It aborts reads at random and continues from its
// cursor. It returns the body of each message once.
func (s *server) readAtRandom(c channel, messages int, random *rand.Rand) (bodies []string, err error) {
	var seen []string
	cursor := ""
	for len(seen) < messages {
		if s.ctx.Err() != nil {
			return bodies, s.ctx.Err()
		}
		r, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://localhost"+c.readPath()+"?after="+cursor, nil)
		if err != nil {
			return bodies, err
		}
		if random.IntN(2) == 0 {
			r.Header.Set("Accept", "text/event-stream")
		}
		response, err := s.client.Do(r)
		if err != nil {
			continue
		}
		if response.StatusCode != http.StatusOK {
			response.Body.Close()
			return bodies, errors.New(response.Status)
		}
		lines := bufio.NewScanner(response.Body)
		for left := 1 + random.IntN(20); left > 0 && lines.Scan(); {
			var m message
			line := strings.TrimPrefix(lines.Text(), "data: ")
			if !strings.HasPrefix(line, "{") {
				continue
			}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				response.Body.Close()
				return bodies, fmt.Errorf("%q: %w", line, err)
			}
			left--
			cursor = m.EID
			if !slices.Contains(seen, m.EID) {
				seen, bodies = append(seen, m.EID), append(bodies, string(m.Body))
			}
		}
		response.Body.Close()
	}
	return bodies, nil
}

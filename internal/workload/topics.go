package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// A habit is how a channel comes to be a member of topics.
type habit int

const (
	none      habit = iota
	faithful        // is created as a member of all topics, and stays
	unaware         // does not know topics, joins all of them, and stays
	restless        // joins and leaves
	returning       // does the same, and always asks for what the topic keeps
	late            // joins each topic at some time, asks for what the topic keeps, and stays
)

// habitOf returns the habit of a channel. Over all channels, each habit meets each transport.
func habitOf(i int, s *session) habit {
	if s.Topics == 0 {
		return none
	}
	h := faithful + habit((i+i/len(Transports))%int(late))
	if s.deleted && h > unaware {
		return faithful // when a channel joins while it is deleted, its members cannot be counted
	}
	return h
}

// answer is the first topic to which one producer writes a text, and which ends with that. So does each fourth one after it.
const answer = 3

func topicName(i int) string { return fmt.Sprintf("t%d", i) }

// topics returns the topics that a channel joins when it is created.
func (h habit) topics(n int) []string {
	names := []string{}
	for i := 0; i < n && h == faithful; i++ {
		names = append(names, topicName(i))
	}
	return names
}

// body returns the body that creates the channel.
func (s *session) body() io.Reader {
	if s.habit == none || s.habit == unaware {
		return nil
	}
	s.KnowsTopics(s.name)
	body, _ := json.Marshal(map[string]any{"topics": s.habit.topics(s.Topics)})
	return bytes.NewReader(body)
}

// pieces splits a body into the values of the messages that were appended to one another. Each ends in a semicolon; the only value
// of a message that was not published has none.
func pieces(body string) (first string, more []string) {
	all := slices.DeleteFunc(strings.SplitAfter(body, ";"), func(piece string) bool { return piece == "" })
	if len(all) == 0 {
		return body, nil
	}
	return all[0], all[1:]
}

// topics are the topics of a run, and what the clients do with them.
type topics struct {
	*session // sends requests

	members []*member
	closed  []sync.Once
	errs    []error // of closing each
}

func newTopics(r *history.Recorder, o Options, sessions []*session) *topics {
	ts := &topics{
		session: &session{Options: o, Recorder: r}, closed: make([]sync.Once, o.Topics), errs: make([]error, o.Topics),
	}
	for i, s := range sessions {
		ts.members = append(ts.members, &member{session: s, rand: o.random(-2_000_000 - i), in: map[int]bool{}})
	}
	return ts
}

// run starts the members and the producers.
func (ts *topics) run(ctx context.Context, running *sync.WaitGroup) {
	if ts.Topics == 0 {
		return
	}
	for _, m := range ts.members {
		switch m.habit {
		case none, faithful:
		case unaware:
			running.Go(func() { m.joinAll(ctx) })
		case restless, returning:
			running.Go(func() { m.comeAndGo(ctx) })
		case late:
			running.Go(func() { m.comeLate(ctx) })
		}
	}
	for i := range ts.Topics {
		if i%4 == answer {
			p := ts.publisher(i, 0)
			running.Go(func() { ts.close(i, func() (string, error) { return p.answer(ctx) }) })
			continue
		}
		for j := range 3 {
			p := ts.publisher(i, j)
			running.Go(func() { publishers[(i+j)%len(publishers)](p, ctx) })
		}
		if i == 2 && ts.FullDelete {
			p := ts.publisher(i, 3)
			running.Go(func() { p.deleteFull(ctx) })
		}
		if i%4 == 1 {
			running.Go(func() {
				wait(ctx, time.Duration(ts.random(-3_000_000-i).Int64N(int64(ts.Time))))
				ts.closeAs(context.WithoutCancel(ctx), i, "aborted")
			})
		}
	}
}

// close closes a topic by f, unless it is closed already.
func (ts *topics) close(i int, f func() (as string, err error)) {
	ts.closed[i].Do(func() { ts.errs[i] = ts.Close(topicName(i), f) })
}

func (ts *topics) closeAs(ctx context.Context, i int, as string) {
	ts.close(i, func() (string, error) {
		return as, ts.insist(ctx, http.MethodPost, "/topic/"+topicName(i)+"/close", fmt.Appendf(nil, `{"as":%q}`, as))
	})
}

// end closes the topics that are open, lets some more members come, and then writes to each channel: that message says what its
// channel has missed until then.
func (ts *topics) end(ctx context.Context) error {
	if ts.Topics == 0 {
		return nil
	}
	var calls sync.WaitGroup
	for i := range ts.Topics {
		calls.Go(func() { ts.closeAs(ctx, i, "done") })
	}
	calls.Wait()
	for _, m := range ts.members {
		if m.deleted {
			continue
		}
		calls.Go(func() {
			if m.habit == late {
				m.joinAll(ctx) // after the end
			}
			deadline := time.Now().Add(m.Settle)
			for m.attempt(ctx, requestTime, m.value(), "") != history.Accepted && !m.gone && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	calls.Wait()
	for _, err := range ts.errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A member is a channel that joins and leaves topics.
type member struct {
	*session

	rand *rand.Rand
	in   map[int]bool
}

// join joins or leaves a topic.
func (m *member) join(ctx context.Context, i int) {
	path := "/topic/" + topicName(i) + "/" + m.producerAddress
	if m.in[i] = !m.in[i]; !m.in[i] {
		_ = m.Leave(m.name, topicName(i), func() error { return m.insist(ctx, http.MethodDelete, path, nil) })
		return
	}
	last := m.habit == returning || m.habit == late
	if last {
		path += "?last=all"
	}
	_ = m.Join(m.name, []string{topicName(i)}, last, func() error { return m.insist(ctx, http.MethodPut, path, nil) })
}

func (m *member) joinAll(ctx context.Context) {
	for i := range m.Topics {
		if !m.in[i] {
			m.join(ctx, i)
		}
	}
}

func (m *member) comeAndGo(ctx context.Context) {
	only := -1
	if m.habit == restless && m.Topics > answer && m.rand.IntN(2) == 0 {
		only = answer // so that pieces of its text come one after the other
	}
	for wait(ctx, time.Duration(m.rand.ExpFloat64()*float64(10*m.Pause))) {
		i := m.rand.IntN(m.Topics)
		if only >= 0 {
			i = only
		}
		m.join(ctx, i)
		if !m.in[i] && m.rand.IntN(2) == 0 && wait(ctx, 2*m.Pause) { // before its consumer has read what came before
			m.join(ctx, i)
		}
	}
}

func (m *member) comeLate(ctx context.Context) {
	for range m.Topics - 1 { // those that it does not meet come after the end
		if !wait(ctx, time.Duration(m.rand.Int64N(int64(m.Time)/int64(m.Topics)))) {
			return
		}
		if i := m.rand.IntN(m.Topics); !m.in[i] {
			m.join(ctx, i)
		}
	}
}

// wait waits, and reports whether ctx goes on.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

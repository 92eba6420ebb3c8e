package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// A publisher publishes to a topic, with a stream of its own.
type publisher struct {
	*session

	topic, id string
	number    int
	stopped   bool // the topic is closed
}

func (ts *topics) publisher(topic, i int) *publisher {
	s := &session{Options: ts.Options, Recorder: ts.Recorder, rand: ts.random(-5_000_000 - 10*topic - i)}
	return &publisher{session: s, topic: topicName(topic), id: fmt.Sprintf("%s.%d", topicName(topic), i)}
}

// publishers are the ways to publish. A publisher uses one of them all the time.
var publishers = []func(*publisher, context.Context){
	(*publisher).plain, (*publisher).keyed, (*publisher).append, (*publisher).held, (*publisher).replace, (*publisher).lines,
}

// next returns the next message.
func (p *publisher) next(merge history.Merge) history.Write {
	p.number++
	return history.Write{
		Topic: p.topic, Producer: p.id, Number: p.number, Merge: merge, Value: fmt.Sprintf("%s-%d;", p.id, p.number),
	}
}

var mergeNames = map[history.Merge]string{history.MergeReplace: "replace", history.MergeAppend: "append"}

// publish makes an attempt, and records it. It returns the outcome.
func (p *publisher) publish(ctx context.Context, limit time.Duration, w history.Write, query string) history.Outcome {
	w.Start = p.Now()
	header := map[string]string{}
	if w.Keyed {
		header["Idempotency-Key"] = w.Value
	}
	if name := mergeNames[w.Merge]; name != "" {
		header["Megaphone-Merge"] = name
	}
	status, text, err := p.postFor(ctx, limit, "/publish/"+p.topic+"/"+p.id+query, header, bytes.NewReader(fmt.Appendf(nil, "%q", w.Value)))
	w.Outcome, w.Detail = p.outcome(status, text, err)
	if w.Outcome == history.Accepted {
		w.Published = &history.Published{Held: query == fullHold}
		if err := json.Unmarshal(text, w.Published); err != nil {
			w.Published, w.Outcome, w.Detail = nil, history.Unknown, fmt.Sprintf("%v: %s", err, text)
		}
	}
	p.stopped = p.stopped || err == nil && status == http.StatusConflict
	p.Write(w)
	return w.Outcome
}

// each publishes one message after the other until the topic is closed.
func (p *publisher) each(ctx context.Context, merge history.Merge, query string) {
	for !p.stopped && p.pause(ctx) {
		p.publish(ctx, requestTime, p.next(merge), query)
	}
}

func (p *publisher) plain(ctx context.Context)   { p.each(ctx, history.MergeNone, "") }
func (p *publisher) append(ctx context.Context)  { p.each(ctx, history.MergeAppend, "") }
func (p *publisher) replace(ctx context.Context) { p.each(ctx, history.MergeReplace, "") }
func (p *publisher) held(ctx context.Context)    { p.each(ctx, history.MergeNone, fullHold) }

const fullHold = "?full=hold"

// deleteFull publishes once, near the end of the run, and deletes the channels that have no room.
func (p *publisher) deleteFull(ctx context.Context) {
	if wait(ctx, p.Time*7/8+time.Duration(p.rand.Int64N(int64(p.Time/8)))) {
		p.publish(ctx, requestTime, p.next(history.MergeNone), "?full=delete")
	}
}

// keyed repeats each message until the server accepts it. Sometimes it breaks off a request.
func (p *publisher) keyed(ctx context.Context) {
	for !p.stopped && p.pause(ctx) {
		w := p.next(history.MergeNone)
		w.Keyed = true
		if p.rand.IntN(20) == 0 {
			p.ChannelFault(p.topic, "its producer breaks off", func() {
				p.publish(ctx, time.Duration(p.rand.IntN(int(2*time.Millisecond))), w, "")
			})
		}
		for !p.stopped && p.publish(ctx, requestTime, w, "") != history.Accepted && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// line returns the next line of a streamed ingest: a piece of a text.
func (p *publisher) line() (history.Write, string) {
	w := p.next(history.MergeAppend)
	return w, fmt.Sprintf(`{"topic":%q,"streamId":%q,"body":%q,"merge":"append"}`, p.topic, p.id, w.Value)
}

// lines streams one request after the other. Some of them it breaks off.
func (p *publisher) lines(ctx context.Context) {
	for p.pause(ctx) {
		n := 1 + p.rand.IntN(20)
		if p.rand.IntN(4) > 0 {
			p.request(ctx, 0, "/write", n)
			continue
		}
		p.ChannelFault(p.topic, "its producer is killed", func() { p.request(ctx, p.someTime(n), "/write", n) })
	}
}

// someTime returns a time in which so many lines may be sent, or not.
func (p *publisher) someTime(lines int) time.Duration {
	return time.Duration(p.rand.Int64N(int64(p.Pause) * int64(lines)))
}

// request sends lines in one request, as stream does.
func (p *publisher) request(ctx context.Context, limit time.Duration, path string, n int) (ended bool) {
	return p.stream(ctx, limit, path, n, p.line)
}

var errOpen = errors.New("the topic of a streamed ingest that has ended is still open")

// answer streams one request, whose end closes the topic. It may be killed before, and so may the server. It returns how the topic
// ended.
func (p *publisher) answer(ctx context.Context) (as string, err error) {
	path, n := "/write?close="+p.topic, 10+p.rand.IntN(1+int(p.Time/p.Pause)/2)
	clean := false
	if p.rand.IntN(2) == 0 {
		clean = p.request(ctx, 0, path, n)
	} else {
		p.ChannelFault(p.topic, "its producer is killed", func() { p.request(ctx, p.someTime(n), path, n) })
	}
	ended := time.Now()
	for ; time.Since(ended) < p.Settle; time.Sleep(5 * time.Millisecond) {
		var state struct {
			Kept   int
			Closed string
		}
		status, text, err := p.send(ctx, http.MethodGet, requestTime, "/topic/"+p.topic, nil, nil)
		if err != nil || status != http.StatusOK || json.Unmarshal(text, &state) != nil {
			continue
		}
		if state.Closed != "" {
			if p.Late > 0 && !clean { // closing it may have been broken off before all members had the end
				err = p.insist(ctx, http.MethodPost, "/topic/"+p.topic+"/close", nil)
			}
			return state.Closed, err
		}
		neverBegun := state.Kept == 0 && time.Since(ended) > time.Second
		serverKilled := p.Late > 0 && !clean && time.Since(ended) > p.Late
		if neverBegun || serverKilled {
			if err := p.insist(ctx, http.MethodPost, "/topic/"+p.topic+"/close", nil); err != nil {
				return "", err
			}
		}
	}
	return "", errOpen
}

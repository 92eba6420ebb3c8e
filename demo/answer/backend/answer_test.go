package backend_test

import (
	"context"
	"iter"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/demo/answer/backend"
)

// TestEveryPageShowsTheWholeAnswer writes 60 pieces a second. One page reads along, one is reloaded, one is a second tab, and
// the machine of one sleeps five times as long as a channel lives, as a laptop does in five minutes. Each shows the whole
// answer and its end, and no piece was refused.
func TestEveryPageShowsTheWholeAnswer(t *testing.T) {
	t.Parallel()
	const seconds = 4
	d := start(t, "memory", "ttl 1s\nwrite_timeout 300ms")
	answer, text := d.ask(seconds), whole(seconds)

	steady, reloaded, sleeping := d.open(answer), d.open(answer), d.open(answer)
	for _, p := range []*page{steady, reloaded, sleeping} {
		p.awaitText(t, 50)
	}
	sleeping.asleep.Lock()
	reloaded.stop()
	<-reloaded.done
	reloaded, second := d.open(answer), d.open(answer)
	steady.wantEnd(t, "steady", "done", text)
	reloaded.wantEnd(t, "reloaded", "done", text)
	second.wantEnd(t, "second tab", "done", text)

	d.await("the channel of the sleeping page is gone", answer, func(s topic) bool { return s.Members == 0 })
	sleeping.asleep.Unlock()
	sleeping.wantEnd(t, "asleep", "done", text)
	if steady.channels != 1 || sleeping.channels != 2 {
		t.Errorf("the steady page had %d channels, and the one that slept %d", steady.channels, sleeping.channels)
	}
	if s := d.topic(answer); s.Kept != 1+seconds*backend.PiecesASecond {
		t.Errorf("the topic has taken %d messages", s.Kept)
	}
}

// TestFiveMinutesAsleep writes the 18,000 pieces of five minutes while a page does not read, but its channel lives on. The
// page gets them joined, and the producer is not held.
func TestFiveMinutesAsleep(t *testing.T) {
	t.Parallel()
	const seconds, pieces = 300, 300 * backend.PiecesASecond
	d := start(t, "memory", "ttl 1m\nwrite_timeout 1m")
	slept := make(chan struct{})
	d.Model = func(_ context.Context, question string, seconds int) iter.Seq[string] {
		return func(yield func(string) bool) {
			if yield("") {
				<-slept // from here on as fast as the server takes it
				backend.Answer(question, seconds)(yield)
			}
		}
	}
	answer := d.ask(seconds)
	p := d.open(answer)
	d.await("the page reads", answer, func(s topic) bool { return s.Members == 1 && s.Kept == 2 })
	p.asleep.Lock()
	close(slept)
	d.await("everything is written", answer, func(s topic) bool { return s.Closed != "" })
	if s := d.topic(answer); s.Closed != "done" || s.Members != 1 || s.Kept != 2+pieces {
		t.Errorf("while the page slept, the topic was %+v", s)
	}
	p.asleep.Unlock()
	p.wantEnd(t, "asleep", "done", whole(seconds))
	if p.channels != 1 || p.messages > pieces/2 {
		t.Errorf("the page had %d channels and %d messages", p.channels, p.messages)
	}
}

func TestAModelThatDies(t *testing.T) {
	t.Parallel()
	d := start(t, "memory", "ttl 1m")
	answer := d.ask(100)
	p := d.open(answer)
	p.awaitText(t, 20)
	d.post("kill", map[string]string{"answer": answer}, nil)
	p.wantEnd(t, "reading along", "aborted", whole(100))
	later := d.open(answer)
	later.wantEnd(t, "later", "aborted", whole(100))
	if p.text != later.text {
		t.Errorf("%q, and later %q", p.text, later.text)
	}
}

func TestAReloadOfCaddy(t *testing.T) {
	t.Parallel()
	const seconds = 2
	d := start(t, "memory", "ttl 1m")
	answer := d.ask(seconds)
	p := d.open(answer)
	p.awaitText(t, 20)
	reload := d.server.Command("reload", "--force", "--config", filepath.Join(d.server.Dir, "Caddyfile"), "--adapter", "caddyfile")
	reload.Env = append(reload.Env, d.env...)
	if output, err := reload.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if s := d.topic(answer); s.Closed != "" {
		t.Errorf("the answer had ended before the reload: %+v", s)
	}
	p.wantEnd(t, "reading along", "done", whole(seconds))
	d.open(answer).wantEnd(t, "later", "done", whole(seconds))
}

// TestARestartWithTheJournal ends Caddy while one answer is complete and others are being written. The first is still there.
// The others end as aborted, even when Caddy was killed.
func TestARestartWithTheJournal(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*demo){
		"exit": func(d *demo) { d.server.Stop() },
		"kill": func(d *demo) { d.server.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t, "journal", "ttl 1m")
			complete, broken := d.ask(1), d.ask(100)
			p := d.open(broken)
			d.open(complete).wantEnd(t, "before", "done", whole(1))
			p.awaitText(t, 20)
			end(d)
			d.restart()
			d.open(complete).wantEnd(t, "after", "done", whole(1))
			if status := d.post("check", map[string]string{"answer": broken}, nil); status != http.StatusOK {
				t.Errorf("check: %d", status)
			}
			p.wantEnd(t, "reading along", "aborted", whole(100))
			d.open(broken).wantEnd(t, "later", "aborted", whole(100))
		})
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	b := backend.New("http://127.0.0.1:1")
	d := &demo{Backend: b, t: t}
	for _, request := range []string{"ask {}", `ask {"question":"x"}`, `ask {"question":"x","seconds":601}`, "read {}", `read {"answer":"../x"}`, "other {}"} {
		what, body, _ := strings.Cut(request, " ")
		if status := d.post(what, raw(body), nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d", request, status)
		}
	}
	if status := d.post("ask", raw(`{"question":"x","seconds":1}`), nil); status != http.StatusServiceUnavailable {
		t.Errorf("without Megaphone: %d", status)
	}
}

// raw is JSON as it stands.
type raw string

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

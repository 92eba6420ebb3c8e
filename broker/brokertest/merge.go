package brokertest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var mergeTests = group{
	"a message replaces the newest one": func(s *suite) {
		a := s.create()
		first := s.publish(a.Producer, "first")[0]
		s.send(a.Producer, s.replaces("s", `1`))
		s.send(a.Producer, s.replaces("s", `{"2":"two"}`))
		m := s.replaces("s", `"3"`)
		s.send(a.Producer, m)
		s.holds(a.Consumer, 2, 0)
		s.subscribe(a.Consumer).takes(first, m)
	},
	"pieces become one message": func(s *suite) {
		for want, pieces := range map[string][]string{
			`"abcd"`:        {`"ab"`, `""`, `"c"`, `"d"`},
			`"\"\\é\u0000"`: {`"\"\\"`, `"é"`, `"\u0000"`},
			`[1,"]",[]]`:    {`[ ]`, `[1, "]"]`, `[]`, `[[]]`},
			`""`:            {`""`, `""`},
		} {
			a := s.create()
			var last *broker.Message
			for _, piece := range pieces {
				last = s.appends("s", piece)
				s.send(a.Producer, last)
			}
			s.subscribe(a.Consumer).takes(s.withBody(last, want))
		}
	},
	"only what asks for the same, of the same stream, is merged": func(s *suite) {
		s.limits.Buffer, s.limits.InFlight = 100, 100
		a := s.create()
		ms := []*broker.Message{
			s.message("s"), s.replaces("s", `"1"`), s.appends("s", `"2"`), s.appends("t", `"3"`), s.appends("t", `[4]`), s.message("t"),
			s.appends("t", `{}`), s.appends("t", `{}`), s.appends("t", `5`), s.appends("t", `6`), s.replaces("t", `7`), s.replaces("s", `8`),
			s.message("s"), s.message("s"), s.replaces("s", `9`), s.appends("s", `"\""`), s.appends("s\"", `"\""`),
		}
		for _, m := range ms {
			s.send(a.Producer, m)
		}
		s.subscribe(a.Consumer).takes(ms...)
	},
	"the same stream, written in another way, is merged": func(s *suite) {
		a := s.create()
		m, err := broker.NewMessageFromJSON([]byte(`"\u0073\n\u00e9"`), []byte(`"a"`), true, "")
		s.no(err)
		s.send(a.Producer, m.WithMerge(broker.MergeAppend))
		last := s.appends("s\né", `"b"`)
		s.send(a.Producer, last)
		s.subscribe(a.Consumer).takes(s.withBody(last, `"ab"`))
	},
	"what a reader was given does not change": func(s *suite) {
		a := s.create()
		first := s.appends("s", `"a"`)
		s.send(a.Producer, first)
		r := s.subscribe(a.Consumer, follow)
		r.takes(first)
		r.End(broker.EndFault)
		s.holds(a.Consumer, 0, 1)
		last := s.appends("s", `"c"`)
		s.send(a.Producer, s.appends("s", `"b"`))
		s.send(a.Producer, last)
		s.holds(a.Consumer, 1, 1)
		r = s.subscribe(a.Consumer, after(first.ID().String()))
		r.resumes(broker.ResumeComplete)
		r.takes(s.withBody(last, `"bc"`))
	},
	"PublishNow merges": func(s *suite) {
		a := s.create()
		s.send(a.Producer, s.appends("s", `"a"`))
		last := s.appends("s", `"b"`)
		if !s.PublishNow(a.Producer, last, s.limits) {
			s.send(a.Producer, last) // the Broker leaves it to Publish
		}
		s.subscribe(a.Consumer).takes(s.withBody(last, `"ab"`))
	},
	"a repeat of a part is dropped": func(s *suite) {
		for _, how := range []broker.Merge{broker.MergeReplace, broker.MergeAppend} {
			a := s.create()
			part := func(key string) *broker.Message {
				m, err := broker.NewMessage("t", []byte(strconv.Quote(key)), key)
				s.no(err)
				return m.WithMerge(how)
			}
			var last *broker.Message
			for _, key := range []string{"1", "2", "3"} {
				last = part(key)
				s.send(a.Producer, last)
			}
			dropped := func() {
				for _, key := range []string{"1", "2", "3"} {
					s.send(a.Producer, part(key))
					s.drops(a.Producer, key)
				}
			}
			dropped()
			want := last
			if how == broker.MergeAppend {
				want = s.withBody(last, `"123"`)
			}
			r := s.subscribe(a.Consumer)
			r.takes(want)
			s.holds(a.Consumer, 0, 1)
			dropped()
			r.Settle(want.ID())
			s.holds(a.Consumer, 0, 0)
			dropped()
		}
	},
	"no cursor shows what was replaced": func(s *suite) {
		a := s.create()
		gone, m := s.replaces("s", `1`), s.replaces("s", `2`)
		s.send(a.Producer, gone)
		s.send(a.Producer, m)
		r := s.subscribe(a.Consumer, after(gone.ID().String()))
		r.resumes(broker.ResumeGap)
		r.takes(m)
		if r.Settle(gone.ID()) {
			s.Error("the event that was replaced can be settled")
		}
		s.holds(a.Consumer, 0, 1)
	},
	"the messages of a batch are merged in each channel": func(s *suite) {
		a, b, c := s.create(), s.create(), s.create()
		s.send(a.Producer, s.appends("s", `"1"`))
		s.send(b.Producer, s.appends("s", `"2"`))
		batch := []*broker.Message{s.appends("s", `"x"`), s.replaces("s", `1`), s.replaces("s", `2`), s.appends("s", `"y"`), s.appends("s", `"z"`)}
		for _, outcome := range s.PublishBatch(s.Context(), []string{a.Producer, b.Producer, c.Producer}, batch, s.limits) {
			if outcome != (broker.Outcome{Accepted: len(batch)}) {
				s.Errorf("the outcome is %+v", outcome)
			}
		}
		for consumer, want := range map[string]string{a.Consumer: `"1x"`, b.Consumer: `"2x"`, c.Consumer: `"x"`} {
			s.subscribe(consumer).takes(s.withBody(batch[0], want), batch[2], s.withBody(batch[4], `"yz"`))
		}
	},
	"the text is what was written while readers come and go": theTextIsWhole,
}

func (s *suite) replaces(stream, body string) *broker.Message {
	s.Helper()
	m, err := broker.NewMessage(stream, []byte(body), "")
	s.no(err)
	return m.WithMerge(broker.MergeReplace)
}

func (s *suite) appends(stream, body string) *broker.Message {
	s.Helper()
	return s.replaces(stream, body).WithMerge(broker.MergeAppend)
}

// withBody returns a message that is like another one, with another body.
func (s *suite) withBody(m *broker.Message, body string) *broker.Message {
	s.Helper()
	m, err := broker.RestoreMessage(broker.StoredMessage{
		ID: m.ID(), StreamID: m.StreamID(), Time: m.Time(), Keyed: m.Keyed(), Merge: m.Merge(), Body: []byte(body),
	})
	s.no(err)
	return m
}

// pieceKinds are the streams of theTextIsWhole.
var pieceKinds = []string{"text", "list", "value"}

// pieces returns so many pieces of one kind, and what they are together.
func (s *suite) pieces(kind string, count int) (ms []*broker.Message, all string) {
	for i := range count {
		switch kind {
		case "text":
			ms = append(ms, s.appends(kind, fmt.Sprintf(`"%d "`, i)))
		case "list":
			ms = append(ms, s.appends(kind, fmt.Sprintf(`["%d "]`, i)))
		default:
			ms = append(ms, s.replaces(kind, strconv.Itoa(i)))
		}
		all += strconv.Itoa(i) + " "
	}
	return ms, all
}

// seenPieces is what a consumer has seen of the streams of theTextIsWhole.
type seenPieces struct {
	*suite

	joined map[string]string // of text and list
	last   int               // value
	cursor string
}

func (p *seenPieces) see(m *broker.Message) {
	p.cursor = m.ID().String()
	switch kind := m.StreamID(); kind {
	case "text":
		var text string
		p.no(json.Unmarshal(m.Body(), &text))
		p.joined[kind] += text
	case "list":
		var list []string
		p.no(json.Unmarshal(m.Body(), &list))
		p.joined[kind] += strings.Join(list, "")
	default:
		value, err := strconv.Atoi(string(m.Body()))
		if p.no(err); value <= p.last {
			p.Errorf("the value %d comes after %d", value, p.last)
		}
		p.last = value
	}
}

// theTextIsWhole lets producers write pieces of texts, lists and values in every way, while readers come and go. Each text and
// each list, joined, must be what its producer has written. Of values, a reader sees some, in order, and the last one.
func theTextIsWhole(s *suite) {
	const each = 60
	a := s.create()
	want := map[string]string{}
	var writing sync.WaitGroup
	for _, kind := range pieceKinds {
		ms, all := s.pieces(kind, each)
		want[kind] = all
		writing.Go(func() {
			for len(ms) > 0 { // in runs, so that there is something to merge
				n := min(len(ms), 1+rand.IntN(12))
				if err := s.writeAll(a.Producer, ms[:n]); err != nil {
					s.Errorf("the producer of the %s fails with %v", kind, err)
				}
				ms = ms[n:]
			}
		})
	}
	seen := &seenPieces{suite: s, joined: map[string]string{}, last: -1}
	lacks := func() bool {
		return seen.joined["text"] != want["text"] || seen.joined["list"] != want["list"] || seen.last < each-1
	}
	for lacks() {
		acknowledges := rand.IntN(2) == 0
		r := s.subscribe(a.Consumer, after(seen.cursor), func(o *broker.SubscribeOptions) { o.Acknowledged = acknowledges })
		for looks := 1 + rand.IntN(4); looks > 0 && lacks(); looks-- { // nothing comes once it has everything
			if _, ok := receiveWithin(r.Ready(), s.patience()); !ok {
				break
			}
			for _, m := range r.take(nil, 1+rand.IntN(1000)) {
				seen.see(m)
			}
			if r.received(); acknowledges && seen.cursor != "" {
				if id, ok := broker.ParseEventID(seen.cursor); ok {
					r.Settle(id)
				}
			}
		}
		for kind, text := range seen.joined {
			if !strings.HasPrefix(want[kind], text) {
				s.Fatalf("the %s is %q", kind, text)
			}
		}
		if r.End(broker.EndFault); s.Failed() {
			return
		}
		if s.realTime {
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
	}
	writing.Wait()
}

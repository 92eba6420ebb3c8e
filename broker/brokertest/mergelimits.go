package brokertest

import (
	"strconv"
	"strings"

	"github.com/caddy-megaphone/megaphone/broker"
)

// What merging has to do with the limits: the buffer, the window, memory, and the size of a message.
var mergeLimitTests = group{
	"a slow reader gets the latest value": func(s *suite) {
		s.limits.InFlight = 1
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		s.send(a.Producer, s.replaces("s", `-1`))
		r.Settle(r.one().ID())
		var last *broker.Message
		for i := range 20 { // many more than the buffer has
			last = s.replaces("s", strconv.Itoa(i))
			s.send(a.Producer, last)
		}
		for seen := -1; ; {
			m := r.one()
			value, err := strconv.Atoi(string(m.Body()))
			if s.no(err); value <= seen {
				s.Fatalf("the value %d comes after %d", value, seen)
			}
			seen = value
			if r.Settle(m.ID()); same([]*broker.Message{m}, []*broker.Message{last}) {
				break
			}
		}
		s.holds(a.Consumer, 0, 0)
	},
	"a full buffer does not hold what is merged": func(s *suite) {
		s.limits.Hold = 0
		a := s.create()
		ms := s.publish(a.Producer, numbers(1, s.limits.Buffer)...)
		s.send(a.Producer, s.appends("s", `"a"`))
		s.send(a.Producer, s.appends("s", `"b"`))
		s.PublishNow(a.Producer, s.appends("s", `""`), s.limits) // a Broker may leave that to Publish
		batch := []*broker.Message{s.appends("s", `"c"`), s.appends("s", `"d"`)}
		s.no(s.PublishBatch(s.Context(), []string{a.Producer}, batch, s.limits)[0].Err)
		in := s.Ingest(s.limits)
		last := s.appends("s", `"f"`)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.appends("s", `"e"`)))
		s.no(in.Write(s.Context(), 1, []byte(a.Producer), last))
		s.finishes(in, 2)
		s.is(s.Publish(s.Context(), a.Producer, s.appends("t", `"g"`), s.limits), broker.ErrTimeout)
		s.holds(a.Consumer, s.limits.Buffer, 0)
		s.limits.InFlight = s.limits.Buffer
		s.subscribe(a.Consumer).takes(append(ms, s.withBody(last, `"abcdef"`))...)
	},
	"nothing is merged past producers that wait": func(s *suite) {
		s.limits.InFlight = 2
		a := s.create()
		ms := s.publish(a.Producer, numbers(1, s.limits.Buffer)...)
		first := s.appends("s", `"a"`)
		s.send(a.Producer, first)
		another := s.message("another")
		held := s.holdMessage(s.Context(), a.Producer, another)
		piece := s.holdMessage(s.Context(), a.Producer, s.appends("s", `"b"`))
		in := s.Ingest(s.limits)
		last := s.appends("s", `"c"`)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), last))
		r := s.subscribe(a.Consumer, acknowledged)
		r.next(2) // so there is room for two
		s.no(s.returned(held))
		s.no(s.returned(piece))
		s.finishes(in, 1)
		want := append(ms, first, another, s.withBody(last, `"bc"`))
		if got := r.peek(a.Consumer, 10); !same(got, want) {
			s.Errorf("the channel holds %q, want %q", lines(got), lines(want))
		}
	},
	"messages that waited are merged when they get in": func(s *suite) {
		s.limits.InFlight = 1
		a := s.create()
		s.fill(a.Producer)
		r := s.subscribe(a.Consumer, acknowledged)
		r.one()
		s.send(a.Producer, s.message("last"))
		first := s.holdMessage(s.Context(), a.Producer, s.appends("s", `"a"`))
		batch := []*broker.Message{s.appends("s", `"b"`), s.appends("s", `"c"`)}
		l := s.limits
		second := start(func() error { return s.PublishBatch(s.Context(), []string{a.Producer}, batch, l)[0].Err })
		s.waits(second)
		r.Settle(r.peek(a.Consumer, 1)[0].ID())
		r.one() // one place, for all three
		s.no(s.returned(first))
		s.no(s.returned(second))
		s.holds(a.Consumer, s.limits.Buffer, 1)
		held := r.peek(a.Consumer, 10)
		if want := s.withBody(batch[1], `"abc"`); !same(held[len(held)-1:], []*broker.Message{want}) {
			s.Errorf("the channel holds %q, want %q at the end", lines(held), want.Line())
		}
	},
	"a piece that makes the whole too large is a message of its own": func(s *suite) {
		s.limits.MaxMessage = 10
		a := s.create()
		last := map[string]*broker.Message{}
		for _, piece := range []string{`"1234"`, `"5678"`, `"9"`, `"0123456"`, `"78901234567890"`, `"1"`} {
			last[piece] = s.appends("s", piece)
			s.send(a.Producer, last[piece])
		}
		s.limits.InFlight = 10
		s.subscribe(a.Consumer).takes(s.withBody(last[`"5678"`], `"12345678"`), s.withBody(last[`"0123456"`], `"90123456"`),
			last[`"78901234567890"`], last[`"1"`])
	},
	"a large text grows": func(s *suite) {
		a := s.create()
		var last *broker.Message
		var text strings.Builder
		for range 4 {
			piece := string(s.big("s", 150<<10).Body())
			last = s.appends("s", piece)
			text.WriteString(piece[1 : len(piece)-1])
			s.send(a.Producer, last)
			last = s.appends("s", `"."`)
			text.WriteByte('.')
			s.send(a.Producer, last)
		}
		s.subscribe(a.Consumer).takes(s.withBody(last, `"`+text.String()+`"`))
	},
	"what is merged needs memory": func(s *suite) {
		a := s.create()
		s.send(a.Producer, s.appends("s", `"a"`))
		s.useUpMemory()
		s.limits.Hold = 0
		s.is(s.Publish(s.Context(), a.Producer, s.appends("s", `"b"`), s.limits), broker.ErrMemoryLimit)
	},
	"a producer that waits for memory is merged when there is some": func(s *suite) {
		s.limits.Buffer = 1
		a := s.create()
		s.send(a.Producer, s.appends("s", `"a"`))
		full := s.useUpMemory()
		last := s.appends("s", `"b"`)
		held := s.holdMessage(s.Context(), a.Producer, last)
		s.delete(full.Consumer)
		s.no(s.returned(held))
		s.subscribe(a.Consumer).takes(s.withBody(last, `"ab"`))
	},
	"what was merged takes no memory any more": func(s *suite) {
		b := implementing[broker.MemoryUser](s)
		a, other := s.create(), s.create()
		uses := func(want int64) {
			s.Helper()
			if used := b.MemoryUsed(); used != want {
				s.Fatalf("%d bytes are in use, want %d", used, want)
			}
		}
		m := s.big("s", 1000).WithMerge(broker.MergeAppend)
		for _, producer := range []string{a.Producer, other.Producer} {
			s.send(producer, m)
		}
		uses(m.Size())
		piece := s.big("s", 500).WithMerge(broker.MergeAppend)
		s.send(a.Producer, piece)
		uses(m.Size() + piece.MergeWith(m).Size())
		s.no(s.PublishBatch(s.Context(), []string{other.Producer}, []*broker.Message{piece}, s.limits)[0].Err)
		uses(2 * piece.MergeWith(m).Size())
		value := s.big("s", 700).WithMerge(broker.MergeReplace)
		for range 2 {
			for _, outcome := range s.PublishBatch(s.Context(), []string{a.Producer, other.Producer}, []*broker.Message{value}, s.limits) {
				s.no(outcome.Err)
			}
			uses(2*piece.MergeWith(m).Size() + value.Size())
		}
		for _, address := range []string{a.Consumer, other.Consumer} {
			s.delete(address)
		}
		uses(0)
	},
	"a text that grows in many channels takes its memory once": func(s *suite) {
		b := implementing[broker.MemoryUser](s)
		var producers []string
		for range 50 {
			producers = append(producers, s.create().Producer)
		}
		pieces := []*broker.Message{s.big("s", 1000).WithMerge(broker.MergeAppend)}
		whole := pieces[0]
		for range 3 {
			piece := s.big("s", 1000).WithMerge(broker.MergeAppend)
			pieces, whole = append(pieces, piece), piece.MergeWith(whole)
		}
		for _, batch := range [][]*broker.Message{pieces[:1], pieces[1:3], pieces[3:]} {
			for _, outcome := range s.PublishBatch(s.Context(), producers, batch, s.limits) {
				s.no(outcome.Err)
			}
		}
		if used := b.MemoryUsed(); used != whole.Size() {
			s.Errorf("a message of %d bytes takes %d", whole.Size(), used)
		}
	},
	"merged messages are counted": func(s *suite) {
		implementing[broker.Statser](s)
		a := s.create()
		first, last := s.appends("s", `"a"`), s.replaces("s", `3`)
		for _, m := range []*broker.Message{first, s.appends("s", `"b"`), s.appends("s", `"c"`), s.replaces("s", `1`), last} {
			s.send(a.Producer, m)
		}
		whole := s.withBody(s.appends("s", `"c"`), `"abc"`)
		want := broker.Stats{
			Channels: 1, Created: 1, Accepted: 5, Appended: 2, Replaced: 1, Pending: 2, BufferedBytes: whole.Size() + last.Size(),
		}
		s.counts(func(t *broker.Stats) { *t = want })
		r := s.subscribe(a.Consumer)
		r.next(2)
		r.Settle(last.ID())
		s.counts(func(t *broker.Stats) {
			*t = want
			t.Pending, t.BufferedBytes, t.Readers, t.Sent, t.Settled = 0, 0, 1, 2, 2
		})
	},
}

// peek returns what the channel holds.
func (r *reader) peek(consumer string, limit int) []*broker.Message {
	r.s.Helper()
	ms, err := r.s.Peek(r.s.Context(), consumer, limit)
	r.s.no(err)
	return ms
}

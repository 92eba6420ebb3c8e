package brokertest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicMergeTests = group{
	"a published message is merged where it can be": func(s *suite) {
		t := s.topics()
		a, b := t.member("news"), t.member("news")
		first := t.appends("s", `"a"`)
		t.tell("news", first, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
		r := t.subscribe(a.Consumer)
		r.takes(first)
		r.End(broker.EndFault)
		second := t.appends("s", `"b"`)
		t.tell("news", second, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
		t.subscribe(b.Consumer).takes(t.withBody(second, `"ab"`))
		t.subscribe(a.Consumer).takes(first, second)
	},
	"pieces are not joined over one that was missed": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.publish(a.Producer, numbers(1, t.limits.Buffer)...)
		before := t.appends("s", `"before"`)
		t.tell("news", before, broker.FullMiss, accepted)
		missed := broker.Published{Members: 1, Full: 1}
		t.tell("news", t.appends("other", `"missed"`), broker.FullMiss, missed)
		t.tell("news", t.appends("s", `"missed"`), broker.FullMiss, missed)
		r := t.subscribe(a.Consumer)
		r.takes(first...)
		r.received()
		r.takes(before)
		after := t.appends("s", `"after"`)
		t.tell("news", after, broker.FullMiss, accepted)
		r.takes(after.Missed(2))
	},
	"pieces are not joined over one that was missed while another one waited": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		waiting := t.appends("s", `"a"`)
		got, waits := t.begin(t.Context(), "news", waiting)
		t.tell("news", t.appends("s", `"missed"`), broker.FullMiss, broker.Published{Members: 1, Full: 1})
		r := t.subscribe(a.Consumer, acknowledged)
		r.takes(first[:t.limits.InFlight]...)
		t.told(got, waits, accepted)
		r.Settle(first[t.limits.InFlight-1].ID())
		t.holds(a.Consumer, 2, 0)
		r.End(broker.EndFault)
		after := t.appends("s", `"c"`)
		t.tell("news", after, broker.FullMiss, accepted)
		t.subscribe(a.Consumer).takes(first[t.limits.InFlight], waiting.Missed(1), after)
	},
	"pieces are not joined over a drain": func(s *suite) {
		t := s.topics()
		d := implementing[broker.Drainer](s)
		if t.shared {
			t.Skip("a drain ends reads only")
		}
		a := t.member("news")
		before, after := t.appends("s", `"a"`), t.appends("s", `"c"`)
		t.tell("news", before, broker.FullMiss, accepted)
		d.Drain(0)
		if !t.eventually(func() bool { return t.Publish(t.Context(), a.Producer, t.appends("s", `""`), t.limits) != nil }) {
			t.Fatal("the channel is not drained")
		}
		t.tell("news", t.appends("s", `"b"`), broker.FullMiss, broker.Published{})
		d.Undrain()
		t.tell("news", after, broker.FullMiss, accepted)
		if got := t.subscribe(a.Consumer).next(2); string(got[1].Body()) != `"c"` {
			t.Errorf("the reader took %q", lines(got))
		}
	},
	"pieces are not joined over a time when the channel was no member": func(s *suite) {
		t := s.topics()
		a, b := t.member("news"), t.member("news")
		first, second, third := t.appends("s", `"a"`), t.appends("s", `"b"`), t.appends("s", `"c"`)
		t.tell("news", first, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
		t.leave(a, "news")
		t.tell("news", second, broker.FullMiss, accepted)
		t.join(a, "news", 0)
		t.tell("news", third, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
		t.subscribe(a.Consumer).takes(first, third)
		t.subscribe(b.Consumer).takes(t.withBody(third, `"abc"`))
	},
	"a slow member gets larger pieces": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		r := t.subscribe(a.Consumer)
		var text strings.Builder
		var last *broker.Message
		for i := range 20 {
			last = t.appends("s", fmt.Sprintf(`"%d,"`, i))
			t.tell("news", last, broker.FullMiss, accepted)
			if i == 0 {
				r.takes(last)
			} else {
				fmt.Fprintf(&text, "%d,", i)
			}
		}
		if !t.shared {
			r.takes(t.withBody(last, `"`+text.String()+`"`))
			return
		}
		var got string // the reader may have been given some ahead, in larger or smaller pieces
		for got != text.String() && r.ready(true) {
			for _, m := range r.take(nil, allBytes) {
				got += strings.Trim(string(m.Body()), `"`)
			}
			r.received()
		}
		if got != text.String() {
			t.Errorf("the reader got %q, want %q", got, text.String())
		}
	},
	"a full member takes what replaces its newest message": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.publish(a.Producer, numbers(1, t.limits.Buffer)...)
		for i := range 3 {
			t.tell("news", t.replaces("s", fmt.Sprint(i)), broker.FullMiss, accepted)
		}
		var last *broker.Message
		for i := range 2 {
			t.tell("news", t.message("missed"), broker.FullMiss, broker.Published{Members: 1, Full: 1})
			last = t.replaces("s", fmt.Sprint(4+i))
			t.tell("news", last, broker.FullMiss, accepted)
		}
		r := t.subscribe(a.Consumer)
		r.takes(first...)
		r.received()
		r.takes(last.Missed(2))
	},
	"kept messages are merged while they are pending": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		var last *broker.Message
		for _, piece := range []string{`"a"`, `"b"`, `"c"`} {
			last = t.appends("s", piece)
			t.tell("news", last, broker.FullMiss, broker.Published{})
		}
		if i := t.info("news"); i.Kept != 3 {
			t.Errorf("the topic is %+v", i)
		}
		a := t.joiner("news", broker.LastAll)
		t.subscribe(a.Consumer).takes(t.withBody(last, `"abc"`))
	},
	"kept messages that are merged are what they would be one after the other": func(s *suite) {
		t := s.topics()
		t.limits.InFlight, t.limits.MaxMessage = 20, 10
		t.keep("news", 100_000, time.Hour)
		a := t.create()
		pending := t.appends("s", `"1234"`)
		t.send(a.Producer, pending)
		for _, m := range []*broker.Message{
			t.appends("s", `"56"`), t.appends("s", `"78"`), t.appends("s", `"9"`), t.appends("s", `""`), // "9" is too much
			t.appends("t", `[1]`), t.appends("t", `[]`), t.appends("t", `[2]`), t.appends("t", `[34567]`), t.appends("t", `"6"`),
			t.replaces("t", `1`), t.replaces("t", `"a value that is longer than that"`), t.replaces("s", `3`), t.message("s"), t.message("s"),
		} {
			t.tell("news", m, broker.FullMiss, broker.Published{})
		}
		t.join(a, "news", broker.LastAll)
		var bodies []string
		for _, m := range t.subscribe(a.Consumer).next(9) {
			bodies = append(bodies, m.StreamID()+string(m.Body()))
		}
		want := []string{
			`s"12345678"`, `s"9"`, `t[1,2]`, `t[34567]`, `t"6"`, `t"a value that is longer than that"`, `s3`, `snull`, `snull`,
		}
		if !slices.Equal(bodies, want) {
			t.Errorf("the channel got %q, want %q", bodies, want)
		}
		if b, ok := t.Broker.(broker.Statser); ok && !t.eventually(func() bool {
			stats := b.Stats()
			return stats.Accepted == 15 && stats.Appended == 5 && stats.Replaced == 1
		}) {
			t.Errorf("the statistics are %+v", b.Stats())
		}
	},
	"a part of what a join brings is a repeat": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		part := func(key string) *broker.Message {
			m, err := broker.NewMessage("s", []byte(`"x"`), key)
			t.no(err)
			return m.WithMerge(broker.MergeAppend)
		}
		var last *broker.Message
		for _, key := range []string{"1", "2", "3"} {
			last = part(key)
			t.tell("news", last, broker.FullMiss, broker.Published{})
		}
		a := t.joiner("news", broker.LastAll)
		for _, key := range []string{"1", "2", "3"} {
			t.tell("news", part(key), broker.FullMiss, accepted)
		}
		t.subscribe(a.Consumer).takes(t.withBody(last, `"xxx"`))
	},
	"a text that grows in many members takes its memory once": func(s *suite) {
		t := s.topics()
		b := implementing[broker.MemoryUser](s)
		const members = 50
		for range members {
			t.member("news")
		}
		whole := t.big("s", 1000).WithMerge(broker.MergeAppend)
		all := broker.Published{Members: members, Accepted: members}
		t.tell("news", whole, broker.FullMiss, all)
		for range 3 {
			piece := t.big("s", 1000).WithMerge(broker.MergeAppend)
			t.tell("news", piece, broker.FullMiss, all)
			whole = piece.MergeWith(whole)
		}
		if used := b.MemoryUsed(); used != whole.Size() {
			t.Errorf("a message of %d bytes takes %d", whole.Size(), used)
		}
	},
	"what is merged in many members needs memory": func(s *suite) {
		t := s.topics()
		b := implementing[broker.MemoryUser](s)
		const members = 20
		for i := range members {
			t.send(t.member("news").Producer, t.appends("s", strconv.Quote(strconv.Itoa(i))))
		}
		m := t.big("s", 4<<10).WithMerge(broker.MergeAppend)
		t.limits.MaxMemory = b.MemoryUsed() + members/2*m.Size()
		got, err := t.PublishTopic(t.Context(), "news", m, broker.FullMiss, t.limits)
		if err != nil || got.Members != members || got.Accepted < members/4 || got.Full < members/4 || got.Accepted+got.Full != members {
			t.Errorf("%+v is reported, error %v", got, err)
		}
		if used := b.MemoryUsed(); used > t.limits.MaxMemory+m.Size() {
			t.Errorf("%d bytes are used, and the limit is %d", used, t.limits.MaxMemory)
		}
	},
	"kept messages are not merged without memory": func(s *suite) {
		t := s.topics()
		b := implementing[broker.MemoryUser](s)
		if t.copies {
			t.Skip("each channel has a copy")
		}
		t.keep("news", 10_000, time.Hour)
		ms := []*broker.Message{t.appends("s", `"a"`), t.appends("s", `"b"`), t.appends("s", `"c"`)}
		for _, m := range ms {
			t.tell("news", m, broker.FullMiss, broker.Published{})
		}
		before := b.MemoryUsed()
		t.limits.MaxMemory = before
		a := t.joiner("news", broker.LastAll)
		if used := b.MemoryUsed() - before; used != 0 {
			t.Errorf("the join takes %d bytes", used)
		}
		t.subscribe(a.Consumer).takes(ms...)
	},
}

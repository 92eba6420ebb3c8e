package brokertest

import (
	"fmt"
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
		t.tell("news", t.message("missed"), broker.FullMiss, broker.Published{Members: 1, Full: 1})
		last := t.replaces("s", "4")
		t.tell("news", last, broker.FullMiss, accepted)
		r := t.subscribe(a.Consumer)
		r.takes(first...)
		r.received()
		r.takes(last.Missed(1))
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
}

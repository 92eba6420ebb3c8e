package brokertest

import (
	"context"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// accepted is what is published to one member that has room.
var accepted = broker.Published{Members: 1, Accepted: 1}

var topicFullTests = group{
	"the next message says what was missed": func(s *suite) {
		t := s.topics()
		a, b := t.member("1", "2"), t.member("1")
		first := t.fill(a.Producer)
		one := t.tells("1", "one", "two")
		t.tells("2", "three")
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		next := t.tells("2", "next", "later")
		r.received()
		r.takes(first[t.limits.InFlight], next[0].Missed(3), next[1])
		t.subscribe(b.Consumer).takes(one...)
	},
	"a message that is written to the channel says it too": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		t.tells("news", "missed")
		held := t.message("held")
		waits := t.holdMessage(t.Context(), a.Producer, held)
		t.tells("news", "missed") // since a producer waits
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		t.no(t.returned(waits))
		r.received()
		r.takes(first[t.limits.InFlight], held.Missed(2))
	},
	"a message that is sent again says the same": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		t.tells("news", "missed")
		r := t.subscribe(a.Consumer, acknowledged)
		r.takes(first[:t.limits.InFlight]...)
		m := t.tells("news", "m")[0]
		r.Settle(first[t.limits.InFlight-1].ID())
		r.takes(first[t.limits.InFlight], m.Missed(1))
		for range 2 {
			r = t.subscribe(a.Consumer, takeOver)
			r.takes(first[t.limits.InFlight], m.Missed(1))
		}
		if !r.Settle(m.ID()) {
			t.Error("the message is not found")
		}
		t.holds(a.Consumer, 0, 0)
		later := t.tells("news", "later")[0]
		r.takes(later)
	},
	"a channel that does not know topics is told nothing of them": func(s *suite) {
		t := s.topics()
		a := t.create()
		t.join(a, "news", 0)
		first := t.fill(a.Producer)
		t.tell("news", t.message("missed"), broker.FullMiss, broker.Published{Members: 1, Full: 1})
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		m := t.tells("news", "m")[0]
		t.end("news")
		r.received()
		r.takes(first[t.limits.InFlight], m)
	},
	"a publish waits for members without room": func(s *suite) {
		t := s.topics()
		a, b := t.member("news"), t.member("news")
		first := t.fill(a.Producer)
		m := t.message("m")
		got, waits := t.begin(t.Context(), "news", m)
		t.subscribe(b.Consumer).takes(m)
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		t.told(got, waits, broker.Published{Members: 2, Accepted: 2})
		r.received()
		r.takes(first[t.limits.InFlight], m)
	},
	"a member that stays full has missed the message": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		before := t.limits.Hold
		t.shortHold()
		begun := time.Now()
		got, waits := t.begin(t.Context(), "news", t.message("missed"))
		t.returnsAfterHold(waits, begun, nil)
		if *got != (broker.Published{Members: 1, Full: 1}) {
			t.Errorf("%+v is reported", *got)
		}
		t.limits.Hold = 0
		t.tell("news", t.message("missed"), broker.FullHold, broker.Published{Members: 1, Full: 1})
		t.limits.Hold = before
		ctx, cancel := context.WithCancel(t.Context())
		got, waits = t.begin(ctx, "news", t.message("missed"))
		cancel()
		t.told(got, waits, broker.Published{Members: 1, Full: 1})
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		m := t.tells("news", "m")[0]
		r.received()
		r.takes(first[t.limits.InFlight], m.Missed(3))
		if b, ok := t.Broker.(broker.Statser); ok {
			if stats := b.Stats(); stats.Skipped != 3 || stats.RefusedFull != 0 || stats.Withdrawn != 0 {
				t.Errorf("%d messages are skipped, %d refused, %d withdrawn", stats.Skipped, stats.RefusedFull, stats.Withdrawn)
			}
		}
	},
	"no later message overtakes one that waits": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		one, two := t.message("one"), t.message("two")
		gotOne, waitsOne := t.begin(t.Context(), "news", one)
		gotTwo, waitsTwo := t.begin(t.Context(), "news", two)
		t.tell("news", t.message("missed"), broker.FullMiss, broker.Published{Members: 1, Full: 1})
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		t.told(gotOne, waitsOne, accepted)
		t.told(gotTwo, waitsTwo, accepted)
		r.received()
		r.takes(first[t.limits.InFlight], one.Missed(1), two)
	},
	"a repeat of a message that waits is not missed once more": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		ctx, cancel := context.WithCancel(t.Context())
		got, waits := t.begin(ctx, "news", t.keyed("m", "key"))
		t.tell("news", t.keyed("m", "key"), broker.FullMiss, broker.Published{Members: 1, Full: 1})
		cancel()
		t.told(got, waits, broker.Published{Members: 1, Full: 1})
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		m := t.tells("news", "m")[0]
		r.received()
		r.takes(first[t.limits.InFlight], m.Missed(1))
	},
	"a message that waits does not come once its member has left": func(s *suite) {
		t := s.topics()
		t.limits.TopicKeep = broker.Keep{Bytes: 10_000, TTL: time.Hour}
		a, b := t.member("news", "other"), t.member("news")
		first := t.fill(a.Producer)
		t.fill(b.Producer)
		m, other := t.message("m"), t.message("other")
		got, waits := t.begin(t.Context(), "news", m)
		gotOther, waitsOther := t.begin(t.Context(), "other", other)
		t.leave(a, "news")
		t.delete(b.Consumer)
		t.told(got, waits, broker.Published{Members: 2})
		t.join(a, "news", broker.LastAll)
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		t.told(gotOther, waitsOther, accepted)
		r.received()
		r.takes(first[t.limits.InFlight], m, other)
	},
	"what waits behind a message whose topic is left may be merged": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		t.publish(a.Producer, numbers(1, t.limits.Buffer)...)
		t.send(a.Producer, t.replaces("s", "1"))
		got, waits := t.begin(t.Context(), "news", t.message("m"))
		behind := t.holdMessage(t.Context(), a.Producer, t.replaces("s", "2"))
		t.leave(a, "news")
		t.told(got, waits, broker.Published{Members: 1})
		t.no(t.returned(behind))
		t.holds(a.Consumer, t.limits.Buffer, 0)
	},
	"a message that waits is a duplicate of one that a join brings": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		t.tell("news", t.keyed("m", "key"), broker.FullMiss, broker.Published{})
		a := t.member("other")
		t.fill(a.Producer)
		got, waits := t.begin(t.Context(), "other", t.keyed("m", "key"))
		t.join(a, "news", broker.LastAll)
		t.told(got, waits, accepted)
		t.holds(a.Consumer, t.limits.Buffer+1, 0)
	},
	"a publish deletes members without room": func(s *suite) {
		t := s.topics()
		a, b := t.member("news"), t.member("news")
		t.fill(a.Producer)
		m := t.message("m")
		t.tell("news", m, broker.FullDelete, broker.Published{Members: 2, Accepted: 1, Full: 1})
		t.subscribe(b.Consumer).takes(m)
		if !t.gone(a.Consumer) {
			t.Error("a member without room is still there")
		}
		t.has("news", 1, 1)
		if b, ok := t.Broker.(broker.Statser); ok {
			if s := b.Stats(); s.Skipped != 1 || s.Undelivered[broker.EndDeleted] != uint64(t.limits.Buffer) {
				t.Errorf("%d messages are skipped, %v undelivered", s.Skipped, s.Undelivered)
			}
		}
	},
	"the end is the last message of a topic, whether there is room or not": func(s *suite) {
		t := s.topics()
		a, b := t.member("news"), t.member("news")
		first := t.fill(a.Producer)
		t.tells("news", "missed")
		end := t.end("news")
		_, err := t.PublishTopic(t.Context(), "news", t.message("later"), broker.FullMiss, t.limits)
		t.is(err, broker.ErrTopicClosed)
		t.end("news")
		if i := t.info("news"); i.Closed != broker.EndDone || i.Members != 2 {
			t.Errorf("the topic is %+v", i)
		}
		t.subscribe(b.Consumer).next(2)
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		r.received()
		r.takes(first[t.limits.InFlight], end.Missed(1))
	},
	"the end does not count toward the buffer": func(s *suite) {
		t := s.topics()
		a := t.member("1", "2", "3")
		for _, topic := range []string{"1", "2", "3"} {
			t.end(topic)
		}
		t.limits.Hold = 0
		t.fill(a.Producer)
		t.is(t.Publish(t.Context(), a.Producer, t.message("m"), t.limits), broker.ErrTimeout)
		t.holds(a.Consumer, 3+t.limits.Buffer, 0)
	},
	"the end comes after what waits": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		m := t.message("m")
		got, waits := t.begin(t.Context(), "news", m)
		end := t.end("news")
		t.holds(a.Consumer, t.limits.Buffer, 0)
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		t.told(got, waits, accepted)
		r.received()
		r.takes(first[t.limits.InFlight], m, end)
	},
	"the end comes when what waited has given up": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		first := t.fill(a.Producer)
		ctx, cancel := context.WithCancel(t.Context())
		got, waits := t.begin(ctx, "news", t.message("missed"))
		end := t.end("news")
		cancel()
		t.told(got, waits, broker.Published{Members: 1, Full: 1})
		t.holds(a.Consumer, t.limits.Buffer+1, 0)
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		r.received()
		r.takes(first[t.limits.InFlight], end.Missed(1))
	},
	"a topic without members or memory is not closed": func(s *suite) {
		t := s.topics()
		t.end("news")
		t.nothing("news")
		a := t.member("news")
		t.end("news")
		t.leave(a, "news")
		t.nothing("news")
		t.join(a, "news", broker.LastAll)
		t.tell("news", t.message("m"), broker.FullMiss, accepted)
	},
}

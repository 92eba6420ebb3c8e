package brokertest

import (
	"bytes"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var messageTests = group{
	"a message that is taken says what was published": func(s *suite) {
		s.limits.Buffer = 100
		a := s.create()
		ms := s.allKinds()
		for _, m := range ms {
			s.send(a.Producer, m)
		}
		s.limits.InFlight = 100
		got := s.subscribe(a.Consumer).next(len(ms))
		for i, m := range ms {
			s.sameMessage(got[i], m)
		}
	},
	"a message that is sent again says what was published": func(s *suite) {
		s.limits.Buffer, s.limits.InFlight = 100, 100
		a := s.create()
		ms := s.allKinds()
		s.no(s.PublishBatch(s.Context(), []string{a.Producer}, ms, s.limits)[0].Err)
		s.subscribe(a.Consumer).next(len(ms))
		got := s.subscribe(a.Consumer, takeOver).next(len(ms))
		for i, m := range ms {
			s.sameMessage(got[i], m)
		}
	},
	"peek shows what was published": func(s *suite) {
		s.limits.Buffer = 100
		a := s.create()
		ms := s.allKinds()
		in := s.Ingest(s.limits)
		for i, m := range ms {
			s.no(in.Write(s.Context(), i, []byte(a.Producer), m))
		}
		s.finishes(in, len(ms))
		got, err := s.Peek(s.Context(), a.Consumer, 100)
		s.no(err)
		if len(got) != len(ms) {
			s.Fatalf("a peek shows %d messages, want %d", len(got), len(ms))
		}
		for i, m := range ms {
			s.sameMessage(got[i], m)
		}
	},
	"a message is the same in all its channels": func(s *suite) {
		a, b := s.create(), s.create()
		m := s.keyed("stream", "key")
		for _, outcome := range s.PublishBatch(s.Context(), []string{a.Producer, b.Producer}, []*broker.Message{m}, s.limits) {
			s.no(outcome.Err)
		}
		s.sameMessage(s.subscribe(a.Consumer).one(), m)
		s.sameMessage(s.subscribe(b.Consumer).one(), m)
	},
	"a message that waits for room says what was published": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		m := s.keyed("held", "key")
		held := s.holdMessage(s.Context(), a.Producer, m)
		r := s.subscribe(a.Consumer, acknowledged)
		for range s.limits.Buffer {
			r.Settle(r.one().ID())
		}
		s.no(s.returned(held))
		s.sameMessage(r.one(), m)
	},
}

// allKinds returns messages of all kinds: those that a producer writes, and those that another server has stored.
func (s *suite) allKinds() []*broker.Message {
	s.Helper()
	ms := []*broker.Message{s.big("large", 100<<10)}
	for _, streamID := range []string{
		"stream", "a \"b\"\\ c\n\x00", "ä€😀", "<é&>", "\u2028", strings.Repeat("long", 100),
	} {
		ms = append(ms, s.message(streamID))
	}
	for _, body := range []string{
		`null`, `true`, `-0`, `1e400`, `2.50`, `12345678901234567890`, `""`, `"\u00e9\ud83d\ude00\/"`, `"ä€😀 "`,
		`[]`, `{}`,
		` { "a" : [ 1 , { "b" : " c " } ] , "a" : null } `, strings.Repeat("[", 100) + strings.Repeat("]", 100),
	} {
		m, err := broker.NewMessage("stream", []byte(body), "")
		s.no(err)
		ms = append(ms, m)
		m, err = broker.NewMessage("stream", []byte(body), "the key of "+body)
		s.no(err)
		ms = append(ms, m, s.restored(m, m.Time().Add(-time.Hour)))
	}
	return ms
}

// restored makes a message with the body of another, as a server makes it that has fetched it from a store.
func (s *suite) restored(m *broker.Message, at time.Time) *broker.Message {
	s.Helper()
	stored := broker.StoredMessage{
		ID: s.message("another").ID(), StreamID: m.StreamID(), Time: at, Keyed: m.Keyed(), Body: m.Body(),
	}
	if m.Keyed() {
		stored.ID = broker.KeyedEventID("another " + m.ID().String())
	}
	restored, err := broker.RestoreMessage(stored)
	s.no(err)
	return restored
}

// sameMessage checks that a message says in every respect what was published, also when a store has kept it.
func (s *suite) sameMessage(got, want *broker.Message) {
	s.Helper()
	if got.ID() != want.ID() || got.StreamID() != want.StreamID() || !got.Time().Equal(want.Time()) ||
		got.Keyed() != want.Keyed() || !bytes.Equal(got.Body(), want.Body()) || !bytes.Equal(got.Line(), want.Line()) ||
		!bytes.Equal(got.JSON(), want.JSON()) || got.Size() != want.Size() {
		s.Errorf("the message is %q, want %q", lines([]*broker.Message{got}), lines([]*broker.Message{want}))
		s.Errorf("its parts are %v %q %v %v, want %v %q %v %v", got.ID(), got.StreamID(), got.Time(), got.Keyed(),
			want.ID(), want.StreamID(), want.Time(), want.Keyed())
	}
	stored := broker.StoredMessage{
		ID: got.ID(), StreamID: got.StreamID(), Time: got.Time(), Keyed: got.Keyed(), Body: got.Body(),
	}
	restored, err := broker.RestoreMessage(stored)
	s.no(err)
	if !bytes.Equal(restored.Line(), want.Line()) || restored.ID() != want.ID() || restored.Keyed() != want.Keyed() {
		s.Errorf("the restored message is %q, want %q", restored.Line(), want.Line())
	}
}

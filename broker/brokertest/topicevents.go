package brokertest

import (
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// topicEvents are what a Broker reports, by topic.
type topicEvents struct {
	t  *topical
	mu sync.Mutex
	by map[string][]int
}

func (t *topical) events() *topicEvents {
	t.Helper()
	e := &topicEvents{t: t, by: map[string][]int{}}
	implementing[broker.TopicSource](t.suite).OnTopics(func(events []broker.TopicEvent) {
		if len(events) == 0 || len(events) > maxDeletions {
			t.Errorf("a batch has %d events", len(events))
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, event := range events {
			e.by[event.Topic] = append(e.by[event.Topic], event.Members)
		}
	})
	return e
}

// wants checks what has been reported until now.
func (e *topicEvents) wants(want map[string][]int) {
	e.t.Helper()
	var text string
	if !e.t.within(sweep, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		text = fmt.Sprint(e.by)
		return reflect.DeepEqual(e.by, want)
	}) {
		e.t.Errorf("%s is reported, want %v", text, want)
	}
}

var topicEventTests = group{
	"the first member and the last one's leaving are reported": func(s *suite) {
		t := s.topics()
		e := t.events()
		a, b := t.member("1", "2"), t.member("2")
		t.join(a, "1", 0)
		e.wants(map[string][]int{"1": {1}, "2": {1}})
		t.leave(b, "1")
		t.leave(b, "2")
		t.leave(a, "1")
		t.join(b, "1", 0)
		t.delete(a.Consumer)
		e.wants(map[string][]int{"1": {1, 0, 1}, "2": {1, 0}})
	},
	"expiry of the last member is reported, and the end of the Broker is not": func(s *suite) {
		t := s.topics()
		e := t.events()
		a := t.member("1")
		t.subscribe(t.member("2").Consumer)
		at := t.expire(a.Consumer)
		time.Sleep(time.Until(at))
		want := map[string][]int{"1": {1, 0}, "2": {1}}
		e.wants(want)
		t.Close()
		e.wants(want)
	},
	"a channel that may not be a member is no event": func(s *suite) {
		t := s.topics()
		e := t.events()
		t.limits.MaxTopics = 1
		if _, err := t.CreateMember(t.Context(), "agent", []broker.Join{{Topic: "1"}, {Topic: "2"}}, t.limits); err == nil {
			t.Error("the channel is created")
		}
		t.tell("3", t.message("m"), broker.FullMiss, broker.Published{})
		t.keep("4", 1000, time.Hour)
		e.wants(map[string][]int{})
	},
	"a flush reports at once": func(s *suite) {
		t := s.topics()
		b := implementing[broker.DeletionSource](s)
		e := t.events()
		t.member("1")
		b.FlushDeletions()
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.by) != 1 {
			t.Errorf("%v is reported", e.by)
		}
	},
}

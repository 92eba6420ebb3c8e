package brokertest

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

func topicsAreListed(s *suite) {
	t := s.topics()
	var want []string
	for i := range 7 {
		name := fmt.Sprint("room ", i)
		want = append(want, name)
		for range i + 1 {
			t.member(name, "other "+name)
		}
	}
	list := func(o broker.TopicListOptions) (names []string) {
		for {
			page, err := t.ListTopics(t.Context(), o)
			t.no(err)
			if len(page.Topics) > o.Limit {
				t.Fatalf("a page has %d topics", len(page.Topics))
			}
			for _, i := range page.Topics {
				if !reflect.DeepEqual(i, t.info(i.Name)) {
					t.Errorf("%+v is listed", i)
				}
				names = append(names, i.Name)
			}
			if o.After = page.Next; o.After == "" {
				slices.Sort(names)
				return names
			}
		}
	}
	if got := list(broker.TopicListOptions{Limit: 3, Prefix: "room "}); !slices.Equal(got, want) {
		t.Errorf("%q are listed, want %q", got, want)
	}
	if got := list(broker.TopicListOptions{Limit: 2, Prefix: "room", MinMembers: 6}); !slices.Equal(got, want[5:]) {
		t.Errorf("%q are listed, want %q", got, want[5:])
	}
	if got := list(broker.TopicListOptions{Limit: 100}); len(got) != 14 {
		t.Errorf("%q are listed, want 14", got)
	}
	_, err := t.ListTopics(t.Context(), broker.TopicListOptions{Limit: 1, After: "no cursor"})
	t.is(err, broker.ErrCursor)
}

func topicStatistics(s *suite) {
	t := s.topics()
	t.keep("b", 10_000, time.Hour)
	a := t.member("a", "b")
	t.member("a")
	t.join(t.create(), "a", 0)
	full := t.limits.Buffer
	ms := t.tells("a", numbers(0, full+1)...)
	kept := t.message("kept")
	t.tell("b", kept, broker.FullMiss, broker.Published{Members: 1, Full: 1})
	t.subscribe(a.Consumer).next(3)
	b := implementing[broker.Statser](s)
	size := totalSize(ms[:full])
	if t.copies {
		size *= 3
	}
	var stats broker.Stats
	if !t.eventually(func() bool {
		stats = b.Stats()
		return stats.Topics == 2 && stats.Memberships == 4 && stats.KeptBytes == kept.Size() && stats.Sent == 3 &&
			stats.Published == uint64(full)+2 && stats.Skipped == 4 && stats.Accepted == 3*uint64(full) && stats.RefusedFull == 0
	}) {
		t.Errorf("the statistics are\n%+v", stats)
	}
	if extra := stats.BufferedBytes - size - kept.Size(); extra < 0 || extra > 2048 {
		t.Errorf("messages take %d bytes, want %d", stats.BufferedBytes, size+kept.Size())
	}
	t.addsUp(&stats)
}

func topicsAreClosed(s *suite) {
	t := s.topics()
	a := t.member("news")
	t.fill(a.Producer)
	got, waits := t.begin(t.Context(), "news", t.message("m"))
	end, err := broker.NewEnd("news", broker.EndDone)
	t.no(err)
	t.Close()
	t.no(t.returned(waits))
	if want := (broker.Published{Members: 1}); !t.shared && *got != want { // the member has gone
		t.Errorf("%+v is reported, want %+v", *got, want)
	}
	_, create := t.CreateMember(t.Context(), "agent", nil, t.limits)
	_, publish := t.PublishTopic(t.Context(), "news", t.message("m"), broker.FullMiss, t.limits)
	_, info := t.Topic(t.Context(), "news")
	_, list := t.ListTopics(t.Context(), broker.TopicListOptions{Limit: 1})
	for name, err := range map[string]error{
		"create": create, "publish": publish, "info": info, "list": list,
		"join":  t.Join(t.Context(), a.Producer, broker.Join{Topic: "news"}, t.limits),
		"leave": t.Leave(t.Context(), a.Producer, "news"),
		"keep":  t.KeepTopic(t.Context(), "news", broker.Keep{}, t.limits),
		"close": t.CloseTopic(t.Context(), "news", end, t.limits),
	} {
		t.Log(name)
		t.is(err, broker.ErrClosed)
	}
}

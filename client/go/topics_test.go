package megaphone_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// TestTopics: every call for topics, and what a member gets.
func TestTopics(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "megaphone {\nbuffer 3\nhold 0s\n}")
	ctx, topic := t.Context(), "room/ä"
	if err := c.KeepTopic(ctx, topic, megaphone.Keep{Bytes: "1MB", TTL: "1m"}); err != nil {
		t.Fatal(err)
	}
	publish := func(want megaphone.Published, bodies ...string) {
		t.Helper()
		for _, body := range bodies {
			m := megaphone.Message{StreamID: "s", Body: body, Merge: "append", Key: body}
			if got, err := c.Publish(ctx, topic, m, ""); err != nil || got != want {
				t.Fatalf("published %+v, %v, want %+v", got, err, want)
			}
		}
	}
	publish(megaphone.Published{}, "a", "b")
	member, err := c.Create(ctx, megaphone.CreateOptions{TTL: "2m", Topics: []megaphone.Join{{Topic: topic, Last: megaphone.LastAll}}})
	if err != nil {
		t.Fatal(err)
	}
	other := create(t, c)
	for range 2 {
		if err := c.Join(ctx, other.ProducerAddress, megaphone.Join{Topic: topic, Last: 1}); err != nil {
			t.Fatal(err)
		}
	}
	publish(megaphone.Published{Members: 2, Accepted: 2}, "c")
	if err := c.Leave(ctx, other.ProducerAddress, topic); err != nil {
		t.Fatal(err)
	}
	ingest := c.Ingest(ctx, topic)
	for _, body := range []string{"1", "2", "3", "4"} {
		if err := ingest.Write(megaphone.Message{Topic: topic, StreamID: "numbers", Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	if result, err := ingest.Close(); err != nil || result.Written != 4 {
		t.Fatalf("%+v %v", result, err)
	}
	if s, err := c.Topic(ctx, topic); err != nil || s != (megaphone.TopicState{Members: 1, Kept: 7, Closed: "done"}) {
		t.Errorf("the topic is %+v, %v", s, err)
	}
	_, err = c.Publish(ctx, topic, megaphone.Message{StreamID: "s"}, megaphone.FullHold)
	if !errors.Is(err, megaphone.ErrTopicClosed) {
		t.Errorf("publishing to the closed topic: %v", err)
	}
	var got []string
	for event, err := range c.Read(ctx, member.ConsumerAddress, megaphone.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %d %s", event.StreamID, event.Body, event.Missed, event.End))
		if event.End != "" {
			break
		}
	}
	want := []string{`s "abc" 0 `, `numbers "1" 0 `, `numbers "2" 0 `, `numbers "3" 0 `, topic + ` null 1 done`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the member got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestAProducerThatDiesAbortsItsTopic: its context ends in the middle of an ingest.
func TestAProducerThatDiesAbortsItsTopic(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "")
	member, err := c.Create(t.Context(), megaphone.CreateOptions{Topics: []megaphone.Join{{Topic: "answer"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ingest := c.Ingest(ctx, "answer")
	if err := ingest.Write(megaphone.Message{Topic: "answer", StreamID: "text", Body: "half"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for event, err := range c.Read(t.Context(), member.ConsumerAddress, megaphone.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(event.Body)+event.End)
		cancel()
		if event.End != "" {
			break
		}
	}
	if _, err := ingest.Close(); err == nil || strings.Join(got, " ") != `"half" nullaborted` {
		t.Errorf("the member got %q, and the producer %v", got, err)
	}
}

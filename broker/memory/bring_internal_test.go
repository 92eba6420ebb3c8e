package memory

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// TestAJoinCopiesWhatItBringsOnce, however many pieces a text has.
func TestAJoinCopiesWhatItBringsOnce(t *testing.T) {
	b := New()
	defer b.Close()
	l := topicLimits()
	l.TopicKeep, l.MaxMessage = broker.Keep{Bytes: 1 << 30, TTL: time.Hour}, 1<<20
	const pieces, size = 5000, 10
	for i := range pieces {
		m, err := broker.NewMessage("text", fmt.Appendf(nil, `"%0*d"`, size, i), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.PublishTopic(t.Context(), "answer", m.WithMerge(broker.MergeAppend), broker.FullMiss, l); err != nil {
			t.Fatal(err)
		}
	}
	joins := []broker.Join{{Topic: "answer", Last: broker.LastAll}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a, err := b.CreateMember(t.Context(), "main", joins, l)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("a join that brings %d bytes of text allocates %d", pieces*size, got)
	}
	ms, err := b.Peek(t.Context(), a.Consumer, 10)
	if err != nil || len(ms) != 1 || len(ms[0].Body()) != pieces*size+2 {
		t.Errorf("the channel holds %d messages, error %v", len(ms), err)
	}
}

package memory

import (
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

const pageSize = 1000

func TestListPagesOfManyChannels(t *testing.T) {
	if testing.Short() {
		t.Skip("makes many channels")
	}
	b := New()
	defer b.Close()
	channels := brokerfixture.Many()
	l := brokerfixture.Limits
	l.TTL = time.Hour
	for i := range channels {
		a, err := b.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l); err != nil {
				t.Fatal(err)
			}
		}
	}
	yes := true
	for name, test := range map[string]struct {
		o    broker.ListOptions
		want int
	}{
		"all":            {broker.ListOptions{Limit: pageSize}, 20 * pageSize},
		"few":            {broker.ListOptions{Limit: pageSize, MinPending: 1}, channels / 1000},
		"none":           {broker.ListOptions{Limit: pageSize, Connected: &yes}, 0},
		"none, by agent": {broker.ListOptions{Limit: pageSize, Agent: "other"}, 0},
	} {
		listed, pages, slow := 0, 0, 0
		for o := test.o; ; {
			start := time.Now()
			page, err := b.List(t.Context(), o)
			if time.Since(start) > 100*time.Millisecond {
				slow++
			}
			if err != nil {
				t.Fatal(err)
			}
			listed += len(page.Channels)
			pages++
			if o.After = page.Next; o.After == "" || listed == test.want && listed > 0 {
				break
			}
		}
		if listed != test.want {
			t.Errorf("%s: listed %d, want %d", name, listed, test.want)
		}
		// Some pages take longer because other programs run.
		if slow > pages/2 {
			t.Errorf("%s: %d of %d pages took more than 100 ms", name, slow, pages)
		}
	}
}

func TestIterationHoldsNoLock(t *testing.T) {
	b := New()
	defer b.Close()
	var created []broker.Addresses
	for range 1000 {
		a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		created = append(created, a)
	}
	for c := range b.list.all() {
		// All calls work in the middle of the iteration.
		a := broker.FormatAddress(c.agent, c.producer)
		if err := b.Publish(t.Context(), a, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if len(created) > 0 {
			if _, err := b.Create(t.Context(), "main", brokerfixture.Limits); err != nil {
				t.Fatal(err)
			}
			created = created[1:]
		}
	}
}

func BenchmarkListPage(b *testing.B) {
	br := New()
	defer br.Close()
	for range 2 * maxExamined {
		if _, err := br.Create(b.Context(), "main", brokerfixture.Limits); err != nil {
			b.Fatal(err)
		}
	}
	yes := true
	for name, o := range map[string]broker.ListOptions{"all": {Limit: pageSize}, "none": {Limit: pageSize, Connected: &yes}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := br.List(b.Context(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

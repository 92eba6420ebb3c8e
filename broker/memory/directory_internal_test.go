package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"testing"
	"time"
)

const pageSize = 1000

func TestPagesOfAMillionChannels(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a million channels")
	}
	r := New()
	defer r.Close()
	const channels = 1_000_000
	l := brokerfixture.Limits
	l.TTL = time.Hour
	for i := range channels {
		a, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l); err != nil {
				t.Fatal(err)
			}
		}
	}
	yes := true
	for name, test := range map[string]struct {
		o    broker.ListOptions
		want int
	}{
		"all":                {broker.ListOptions{Limit: pageSize}, 20 * pageSize},
		"few":                {broker.ListOptions{Limit: pageSize, MinPending: 1}, channels / 1000},
		"none":               {broker.ListOptions{Limit: pageSize, Connected: &yes}, 0},
		"none, told at once": {broker.ListOptions{Limit: pageSize, Agent: "other"}, 0},
	} {
		listed, pages, slow := 0, 0, 0
		for o := test.o; ; {
			start := time.Now()
			page, err := r.List(t.Context(), o)
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

func TestAWalkOverTheChannelsHoldsUpNobody(t *testing.T) {
	r := New()
	defer r.Close()
	var created []broker.Addresses
	for range 1000 {
		a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		created = append(created, a)
	}
	for c := range r.list.all() {
		// Everything goes on in the middle of the walk: it holds no lock.
		a := broker.FormatAddress(c.agent, c.producer)
		if err := r.Publish(t.Context(), a, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		if err := r.Delete(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if len(created) > 0 {
			if _, err := r.Create(t.Context(), "main", brokerfixture.Limits); err != nil {
				t.Fatal(err)
			}
			created = created[1:]
		}
	}
}

func BenchmarkListPage(b *testing.B) {
	r := New()
	defer r.Close()
	for range 2 * maxExamined {
		if _, err := r.Create(b.Context(), "main", brokerfixture.Limits); err != nil {
			b.Fatal(err)
		}
	}
	yes := true
	for name, o := range map[string]broker.ListOptions{"all": {Limit: pageSize}, "none": {Limit: pageSize, Connected: &yes}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := r.List(b.Context(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

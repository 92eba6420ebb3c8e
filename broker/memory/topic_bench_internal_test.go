package memory

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// BenchmarkPublishTopic publishes a message to 10,000 members, whose readers take it. Target: publish 200 ns a member, and take no
// more than BenchmarkPublishDeliver does, without an allocation for each member.
func BenchmarkPublishTopic(b *testing.B) {
	b.ReportAllocs()
	const members = 10_000
	br, l := New(), topicLimits()
	defer br.Close()
	subs := make([]broker.Subscription, members)
	for i := range subs {
		a, _ := newMember(b, br, l, "news")
		var err error
		if subs[i], err = br.Subscribe(b.Context(), a.Consumer, broker.SubscribeOptions{Limits: l}); err != nil {
			b.Fatal(err)
		}
	}
	var published time.Duration
	var ms []*broker.Message
	taken := 0
	for b.Loop() {
		begun := time.Now()
		if p, err := br.PublishTopic(b.Context(), "news", brokerfixture.Message(b), broker.FullMiss, l); err != nil || p.Accepted != members {
			b.Fatalf("%+v, error %v", p, err)
		}
		published += time.Since(begun)
		taken++
		for _, sub := range subs {
			<-sub.Ready()
			if ms, _ = sub.Take(ms[:0], 64<<10); len(ms) != 1 {
				b.Fatal("there is no message")
			}
			sub.Received(taken)
		}
	}
	b.ReportMetric(float64(published.Nanoseconds())/float64(b.N)/members, "ns/member-published")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/members, "ns/member")
}

// BenchmarkMembers joins and leaves a topic with a million members. Target: 3 µs for each.
func BenchmarkMembers(b *testing.B) {
	b.ReportAllocs()
	br, l := New(), topicLimits()
	defer br.Close()
	for range 1_000_000 {
		newMember(b, br, l, "news")
	}
	var producers [1000]string
	for i := range producers {
		a, _ := newMember(b, br, l)
		producers[i] = a.Producer
	}
	var joining, leaving time.Duration
	for b.Loop() {
		begun := time.Now()
		for _, producer := range producers {
			if err := br.Join(b.Context(), producer, broker.Join{Topic: "news"}, l); err != nil {
				b.Fatal(err)
			}
		}
		joined := time.Now()
		for _, producer := range producers {
			if err := br.Leave(b.Context(), producer, "news"); err != nil {
				b.Fatal(err)
			}
		}
		joining, leaving = joining+joined.Sub(begun), leaving+time.Since(joined)
	}
	b.ReportMetric(float64(joining.Nanoseconds())/float64(b.N*len(producers)), "ns/join")
	b.ReportMetric(float64(leaving.Nanoseconds())/float64(b.N*len(producers)), "ns/leave")
}

// BenchmarkWriteDuringPublish writes to a channel and takes the message, alone, and while another goroutine publishes to 10,000
// members all the time. Target: p99 at most twice as long.
func BenchmarkWriteDuringPublish(b *testing.B) {
	for name, publishes := range map[string]bool{"alone": false, "beside": true} {
		b.Run(name, func(b *testing.B) {
			br, l := New(), topicLimits()
			defer br.Close()
			l.Buffer = 1 << 30
			for range 10_000 {
				newMember(b, br, l, "news")
			}
			_, c := newMember(b, br, l)
			sub, err := c.subscribe(broker.SubscribeOptions{Limits: l})
			if err != nil {
				b.Fatal(err)
			}
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for m := brokerfixture.Message(b); publishes; {
					select {
					case <-stop:
						return
					default:
						_, _ = br.PublishTopic(b.Context(), "news", m, broker.FullMiss, l)
					}
				}
			}()
			var took []time.Duration
			for b.Loop() {
				begun := time.Now()
				if !br.PublishNow(c.addresses().Producer, brokerfixture.Message(b), l) {
					b.Fatal("the channel is full")
				}
				<-sub.Ready()
				ms, _ := sub.Take(nil, 1<<20)
				sub.Received(sub.taken)
				took = append(took, time.Since(begun)/time.Duration(len(ms)))
				time.Sleep(50 * time.Microsecond)
			}
			close(stop)
			<-stopped
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
		})
	}
}

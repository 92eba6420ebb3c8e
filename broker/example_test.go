package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

// A producer publishes to a channel, a consumer takes what is there and settles it. Another consumer with that cursor
// gets only what is newer.
func ExampleBroker() {
	ctx := context.Background()
	var b broker.Broker = memory.New()
	defer b.Close()
	limits := broker.Limits{
		Buffer: 100, InFlight: 100, Hold: 10 * time.Second, TTL: time.Minute,
		MaxMessage: 2e6, MaxChannels: 1000, MaxMemory: 1 << 30,
	}

	channel, err := b.Create(ctx, "main", limits)
	if err != nil {
		log.Fatal(err)
	}
	publish := func(body string) {
		m, err := broker.NewMessage("news", []byte(body), "")
		if err != nil {
			log.Fatal(err)
		}
		if err := b.Publish(ctx, channel.Producer, m, limits); err != nil {
			log.Fatal(err)
		}
	}
	read := func(cursor string) (last string) {
		s, err := b.Subscribe(ctx, channel.Consumer, broker.SubscribeOptions{Limits: limits, Follow: true, After: cursor, TakeOver: true})
		if err != nil {
			log.Fatal(err)
		}
		defer s.End(broker.EndClean)
		<-s.Ready()
		messages, _ := s.Take(nil, 1<<20)
		for _, m := range messages {
			fmt.Println(m.StreamID(), string(m.Body()))
			last = m.ID().String()
		}
		return last
	}

	publish(`{"title": "Hello"}`)
	cursor := read("")
	publish(`{"title": "Hello again"}`)
	read(cursor)

	err = b.Delete(ctx, channel.Consumer)
	_, gone := b.State(ctx, channel.Consumer)
	fmt.Println(err, errors.Is(gone, broker.ErrNotFound))
	// Output:
	// news {"title":"Hello"}
	// news {"title":"Hello again"}
	// <nil> true
}

// A body keeps its keys, their order and its numbers as they were written. Only white space between tokens goes.
func ExampleNewMessage() {
	m, err := broker.NewMessage("prices", []byte(`{ "ACME": 101.50, "at": 12345678901234567890 }`), "")
	fmt.Println(string(m.Body()), err)
	_, err = broker.NewMessage("prices", []byte(`{"ACME": }`), "")
	fmt.Println(errors.Is(err, broker.ErrMessage))
	// Output:
	// {"ACME":101.50,"at":12345678901234567890} <nil>
	// true
}

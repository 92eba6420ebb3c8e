package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// A fan is a message's way to many readers.
type fan struct {
	readers []channel
	publish load.Request
}

// members is how many readers a message reaches.
const members = 10_000

// fanOutWorks returns the work that publishes to many.
func fanOutWorks() []*work {
	return []*work{{
		key: "fanout", run: fanOut, applies: func(p *peer) bool { return p.fan != nil },
		settings: settings{topics: true},
		measures: []measure{
			{name: "one message to 10,000 members, deliveries", unit: perSecond, ratio: "nchan"},
			{name: "… until the last one has it, median", unit: "ms", lessIsBest: true},
			{name: "a write to another channel until it is delivered, p50", unit: "ms", lessIsBest: true},
			{name: "… p99", unit: "ms", lessIsBest: true},
			{name: "… while messages go to 10,000 members all the time, p50", unit: "ms", lessIsBest: true},
			{name: "… p99 meanwhile", unit: "ms", lessIsBest: true},
			{name: "… p99 meanwhile, as a multiple", unit: "×", lessIsBest: true},
		},
	}}
}

// fanOut is a work: it publishes one message after the other to all members, each when all of them have the one before. Then it
// times writes to another channel, first alone, and then while it goes on publishing.
func fanOut(ctx context.Context, s *session) ([]float64, error) {
	f, err := s.peer.fan(s.server.address, members)
	if err != nil {
		return nil, err
	}
	if err := s.subscribe(f.readers, "http"); err != nil {
		return nil, err
	}
	p, err := s.newProbe()
	if err != nil {
		return nil, err
	}
	if err := s.settle(); err != nil {
		return nil, err
	}
	var took []time.Duration
	publish := repeat(f.publish, members)
	loops := []loop{func(conn *load.Conn) (int64, error) {
		begun, want := time.Now(), s.counter.N()+members
		_, err := publish(conn)
		if err == nil {
			err = s.delivered(want)
		}
		took = append(took, time.Since(begun))
		return members, err
	}}
	rate, err := s.wholeRounds(ctx, loops[0])
	if err != nil {
		return nil, err
	}
	if err := s.settle(); err != nil {
		return nil, err
	}
	alone, err := p.run(ctx, s.duration)
	if err != nil {
		return nil, err
	}
	l, err := s.run(loops)
	if err != nil {
		return nil, err
	}
	time.Sleep(warmUp)
	beside, err := p.run(ctx, s.duration)
	if stopped := l.stop(); err == nil {
		err = stopped
	}
	return []float64{
		rate, milliseconds(took, 0.5), milliseconds(alone, 0.5), milliseconds(alone, 0.99), milliseconds(beside, 0.5),
		milliseconds(beside, 0.99), milliseconds(beside, 0.99) / milliseconds(alone, 0.99),
	}, err
}

// wholeRounds returns how many units of work a loop does per second of the server's CPU time. Unlike perCPU, it measures from the
// end of one round to the end of another, since a round may take long.
func (s *session) wholeRounds(ctx context.Context, next loop) (float64, error) {
	conn, err := s.dial()
	if err != nil {
		return 0, err
	}
	if _, err := next(conn); err != nil { // to warm up
		return 0, err
	}
	var taken sync.WaitGroup
	defer taken.Wait()
	if s.profiles != "" {
		taken.Go(func() { s.profile(ctx, "cpu", fmt.Sprintf("profile?seconds=%d", max(1, int(s.duration.Seconds())))) })
	}
	before, err := s.server.cpu()
	if err != nil {
		return 0, err
	}
	var units int64
	for begun := time.Now(); time.Since(begun) < s.duration; {
		n, err := next(conn)
		if err != nil {
			return 0, err
		}
		units += n
	}
	after, err := s.server.cpu()
	return float64(units) / (after - before).Seconds(), err
}

// milliseconds returns a quantile of times.
func milliseconds(times []time.Duration, q float64) float64 {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return float64(times[int(q*float64(len(times)-1))]) / float64(time.Millisecond)
}

// megaphoneFan has a channel for each member of a topic.
func megaphoneFan(address string, n int) (fan, error) {
	cs, err := createWith(address, n, `{"topics":["news"]}`)
	return fan{cs, load.Post("/publish/news/bench", body(), jsonType)}, err
}

// bareFan has readers of one path, who get as many bytes as Megaphone's.
func bareFan(_ string, n int) (fan, error) {
	line := `{"eventId":"0192f2c5-0000-7000-8000-000000000000","type":"message","streamId":"bench","body":` + body() + "}"
	return fan{slices.Repeat([]channel{{path: "/news"}}, n), load.Post("/news", line)}, nil
}

func bareChannels(_ string, n int) ([]channel, error) {
	cs := make([]channel, n)
	for i := range cs {
		cs[i] = bareChannel(fmt.Sprintf("/%d", i))
	}
	return cs, nil
}

func bareChannel(path string) channel {
	return channel{path: path, post: func(body string) load.Request { return load.Post(path, body) }}
}

// sharedFan has the same channel for all readers.
func sharedFan(c channel, n int) (fan, error) {
	return fan{slices.Repeat([]channel{c}, n), c.post(body())}, nil
}

func mercureFan(_ string, n int) (fan, error) {
	const topic = "https://example.com/news"
	return sharedFan(channel{
		path: "/.well-known/mercure?topic=" + url.QueryEscape(topic),
		post: func(body string) load.Request { return mercurePost([]string{topic}, body) },
	}, n)
}

func nchanFan(_ string, n int) (fan, error) {
	return sharedFan(channel{
		path: "/sub/news",
		post: func(body string) load.Request { return load.Post("/pub/news", body, jsonType) },
	}, n)
}

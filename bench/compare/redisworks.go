package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// lineSize is the size, in bytes, of a line that the nodes keep in Redis.
const lineSize = 346

// lineBody returns a body that makes a line of lineSize bytes, with a mark.
func lineBody() string { return `"~` + strings.Repeat("x", lineSize-112-2) + `"` }

// redisWorks returns works for servers that share a Redis. Producers are on one node, readers on another.
func redisWorks() []*work {
	shared := func(p *peer) bool { return p.shared && !p.floor }
	const (
		perRedis = "/CPU s of Redis"
		ofXADD   = "× XADD"
	)
	return []*work{
		{
			key: "redis-write", run: redisWrites(false), nodes: 2, applies: shared,
			measures: []measure{
				{name: "single writes to 64 channels through Redis, delivered", unit: perRedis},
				{name: "… compared with redis-benchmark -P 64 XADD", unit: ofXADD},
				{name: "… calls of Redis for a message", unit: "", lessIsBest: true},
			},
		},
		{
			key: "redis-keyed", run: redisWrites(true), nodes: 2, applies: shared,
			measures: []measure{
				{name: "the same with idempotency keys", unit: perRedis},
				{name: "… compared with XADD", unit: ofXADD},
				{name: "… calls for a message", unit: "", lessIsBest: true},
			},
		},
		{
			key: "redis-batch", run: redisBatch, nodes: 2, applies: shared,
			measures: []measure{
				{name: "write-batch to 100 channels through Redis, deliveries", unit: perRedis},
				{name: "… deliveries compared with XADD", unit: ofXADD},
				{name: "… calls for a delivery", unit: "", lessIsBest: true},
			},
		},
		{
			key: "redis-trips", run: redisTrips, nodes: 2, applies: shared,
			measures: []measure{{name: "calls of Redis for a message at 500/s to one channel", unit: "", lessIsBest: true}},
		},
		{
			key: "redis-latency", run: redisLatency, nodes: 2, bothCores: true, applies: shared,
			measures: []measure{
				{name: "latency at 2,000/s through Redis, p50", unit: "ms", lessIsBest: true},
				{name: "… p99", unit: "ms", lessIsBest: true},
				{name: "… p99.9", unit: "ms", lessIsBest: true},
			},
		},
		{
			key: "redis-memory", run: redisMemory, steady: true, applies: shared,
			measures: []measure{
				{name: "memory of an idle channel in Redis", unit: "B", lessIsBest: true},
				{name: "memory of 100 messages in Redis", unit: "B", lessIsBest: true},
			},
		},
		{
			key: "redis-nodes", run: redisNodes, nodes: 4, applies: func(p *peer) bool { return p.shared },
			measures: []measure{
				{name: "CPU of one node for a message", unit: "µs", lessIsBest: true},
				{name: "CPU of all of four nodes for a message", unit: "µs", lessIsBest: true},
				{name: "… compared with one node", unit: "×", lessIsBest: true},
			},
		},
	}
}

// separate opens a reader for each of n new channels at the first node, and makes all later connections go to the second.
func (s *session) separate(n int) ([]channel, error) {
	cs, err := s.read(n)
	s.server = s.nodes[1]
	return cs, err
}

// ofRedis runs loops, and returns how many messages were delivered for a second of Redis' CPU time, how many for each XADD
// that would take the same time, and the calls for a message. XADD is measured right before and right after.
func (s *session) ofRedis(ctx context.Context, loops []loop) ([]float64, error) {
	before, err := s.store.xadd(ctx)
	if err != nil {
		return nil, err
	}
	var l *closedLoop
	var n, calls int64
	rate, err := s.perCPU(ctx, loops, func(running *closedLoop) int64 {
		l = running
		now, _ := s.store.calls()
		delivered := s.counter.N()
		n, calls = delivered-n, now-calls
		return delivered
	})
	if err != nil {
		return nil, err
	}
	if err := s.delivered(l.done.Load()); err != nil {
		return nil, err
	}
	after, err := s.store.xadd(ctx)
	return []float64{rate, rate * (before + after).Seconds() / 2, float64(calls) / float64(n)}, err
}

// redisWrites returns a work: each of 64 producers writes one message after the other to its own channel.
func redisWrites(keyed bool) func(context.Context, *session) ([]float64, error) {
	return func(ctx context.Context, s *session) ([]float64, error) {
		cs, err := s.separate(producers)
		if err != nil {
			return nil, err
		}
		loops := make([]loop, producers)
		for i, c := range cs {
			if loops[i] = repeat(c.post(lineBody()), 1); keyed {
				loops[i] = numbered(c)
			}
		}
		return s.ofRedis(ctx, loops)
	}
}

// numbered returns a loop that writes messages with a key each to a channel.
func numbered(c channel) loop {
	plain := string(c.post(lineBody()))
	line, rest, _ := strings.Cut(plain, "\r\n")
	n := 0
	return func(conn *load.Conn) (int64, error) {
		n++
		return repeat(load.Request(fmt.Sprintf("%s\r\nIdempotency-Key: %d\r\n%s", line, n, rest)), 1)(conn)
	}
}

// redisBatch is a work: each request writes one message to 100 channels.
func redisBatch(ctx context.Context, s *session) ([]float64, error) {
	const channels, writers = 100, 8
	cs, err := s.separate(channels)
	if err != nil {
		return nil, err
	}
	loops := make([]loop, writers)
	for i := range loops {
		loops[i] = repeat(writeBatch(cs, lineBody()), channels)
	}
	return s.ofRedis(ctx, loops)
}

// redisTrips is a work: messages go to one channel at a constant rate.
func redisTrips(ctx context.Context, s *session) ([]float64, error) {
	const rate = 500
	cs, err := s.separate(1)
	if err != nil {
		return nil, err
	}
	calls, err := s.store.calls()
	if err != nil {
		return nil, err
	}
	total := int(s.duration.Seconds() * rate)
	if err := s.pace(ctx, rate, total, func(int) load.Request { return cs[0].post(lineBody()) }); err != nil {
		return nil, err
	}
	after, err := s.store.calls()
	if err != nil {
		return nil, err
	}
	return []float64{float64(after-calls) / float64(total)}, s.delivered(int64(total))
}

// redisLatency is the work latency, with producers and readers on different nodes.
func redisLatency(ctx context.Context, s *session) ([]float64, error) {
	return latencyOf(ctx, s, s.separate)
}

// redisMemory is a work: it creates channels, and writes messages that nobody reads.
func redisMemory(ctx context.Context, s *session) ([]float64, error) {
	const channels, full, messages = 5000, 20, 100
	// What a partition takes does not count, nor what Redis keeps of a script.
	warm, err := s.peer.channels(s.server.address, channels/10)
	if err != nil {
		return nil, err
	}
	if err := s.writeTimes(warm[0], messages); err != nil {
		return nil, err
	}
	before, err := s.store.memory()
	if err != nil {
		return nil, err
	}
	cs, err := s.peer.channels(s.server.address, channels)
	if err != nil {
		return nil, err
	}
	after, err := s.store.memory()
	if err != nil {
		return nil, err
	}
	idle := float64(after-before) / channels
	for _, c := range cs[:full] {
		if err := s.writeTimes(c, messages); err != nil {
			return nil, err
		}
	}
	filled, err := s.store.memory()
	return []float64{idle, float64(filled-after) / full}, errors.Join(err, ctx.Err())
}

// writeTimes writes n messages to a channel, one after the other.
func (s *session) writeTimes(c channel, n int) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	for range n {
		if _, err := repeat(c.post(lineBody()), 1)(conn); err != nil {
			return err
		}
	}
	return nil
}

// redisNodes is a work: the same load goes to one node, and then to four. Each producer's reader is on the next node.
func redisNodes(ctx context.Context, s *session) ([]float64, error) {
	one, err := s.cpuOfNodes(ctx, s.nodes[:1])
	if err != nil {
		return nil, err
	}
	all, err := s.cpuOfNodes(ctx, s.nodes)
	return []float64{one, all, all / one}, err
}

// cpuOfNodes returns how many microseconds of CPU time the nodes use together for a message, at a constant rate.
func (s *session) cpuOfNodes(ctx context.Context, nodes []*process) (float64, error) {
	const rate = 4000
	var conns []*load.Conn
	var requests []load.Request
	for i := range producers {
		s.server = nodes[(i+1)%len(nodes)]
		cs, err := s.read(1)
		if err != nil {
			return 0, err
		}
		s.server = nodes[i%len(nodes)]
		conn, err := s.dial()
		if err != nil {
			return 0, err
		}
		conns, requests = append(conns, conn), append(requests, cs[0].post(lineBody()))
	}
	sent := make(chan error, 1)
	total := int((s.duration + 2*warmUp).Seconds() * rate)
	go func() {
		sent <- paceOver(ctx, conns, rate, total, func(i int) load.Request { return requests[i%producers] })
	}()
	time.Sleep(warmUp)
	used, n := -cpuOf(nodes), -s.counter.N()
	time.Sleep(s.duration)
	used, n = used+cpuOf(nodes), n+s.counter.N()
	if err := <-sent; err != nil {
		return 0, err
	}
	return float64(used.Microseconds()) / float64(n), nil
}

// cpuOf returns the CPU time that processes have used together. A process that has ended counts nothing.
func cpuOf(ps []*process) (sum time.Duration) {
	for _, p := range ps {
		used, _ := p.cpu()
		sum += used
	}
	return sum
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// A work is a task at which servers are measured.
type work struct {
	key       string
	settings  settings
	bothCores bool // the server may use the load's core too
	nodes     int  // how many servers share a store; 0 and 1 mean one server
	steady    bool // the results do not vary, so the short run does it once
	applies   func(p *peer) bool
	run       func(ctx context.Context, s *session) ([]float64, error)
	measures  []measure // describes the values that run returns, in the same order
}

// A measure is one number that a work yields.
type measure struct {
	name, unit string
	lessIsBest bool
	// ratio is the name of a peer. If it is set, the number is shown as a multiple of that peer's number.
	ratio string
	// guard is what Megaphone must reach in the short run, or must not exceed if lessIsBest. 0 means no check. If ratio
	// is set, guard applies to the ratio. Usual results are so far from it that noise does not trip it. If guarded is set,
	// guard applies to that peer instead.
	guard   float64
	guarded string
}

const (
	perSecond = "/CPU s"
	floor     = "respond"
	idleFloor = "wait" // the same for idle readers
	megaphone = "megaphone"
)

func serves(transport string) func(p *peer) bool {
	return func(p *peer) bool {
		_, ok := p.headers[transport]
		return ok && p.name != "relay" // relay does not notice when its readers leave
	}
}

func isBroker(p *peer) bool { return !p.floor && !p.shared }

// takesWrites reports whether a peer is a broker or shows the least that a write costs.
func takesWrites(p *peer) bool {
	return p.name == floor || p.name == "respond-logged" || p.name == "relay" || isBroker(p)
}

// hasJournal reports whether a peer has a journal, or is what those are compared with.
func hasJournal(p *peer) bool {
	return p.name == megaphone || p.name == "disk" || p.name == "disk-synced"
}

// works returns all works, in the order in which they are done.
func works() []*work {
	return slices.Concat(singleWorks(), idleWorks(), liveWorks(), fanOutWorks(), redisWorks())
}

// singleWorks returns the works that have no variant for each transport or number of channels.
func singleWorks() []*work {
	return []*work{
		{
			key: "write", run: singleWrites(producers), applies: takesWrites,
			// 1.3 to 3.1, depending on the processor; 0.6 if net/http serves the writes
			measures: []measure{{name: "single writes to 64 channels, delivered", unit: perSecond, ratio: floor, guard: 1.1}},
		},
		{
			key: "journal", run: singleWrites(producers), applies: hasJournal,
			measures: []measure{{
				name: "single writes to 64 channels, delivered, with a journal", unit: perSecond, ratio: megaphone, guard: 0.8, guarded: "disk",
			}},
		},
		{
			key: "journal-both", run: bothCoresWrites, bothCores: true, applies: hasJournal,
			measures: []measure{{name: "the same, server and load on both cores", unit: "/s", ratio: megaphone}},
		},
		{
			key: "write-8", run: singleWrites(producers / 8), applies: takesWrites,
			measures: []measure{{name: "single writes to 8 channels, delivered", unit: perSecond, ratio: floor}},
		},
		{
			key: "batch", run: batchWrites, applies: func(p *peer) bool { return p.batch != nil },
			measures: []measure{{name: "write-batch to 100 channels, deliveries", unit: perSecond, ratio: floor, guard: 6.5}},
		},
		{
			key: "ingest", run: ingest, applies: func(p *peer) bool { return p.ingest },
			measures: []measure{{name: "streamed ingest, delivered", unit: perSecond, ratio: floor, guard: 7}},
		},
		{
			key: "create", run: create, applies: func(p *peer) bool { return p.create },
			measures: []measure{{name: "create", unit: perSecond, ratio: floor, guard: 0.5}},
		},
		{
			key: "both", run: bothCoresWrites, bothCores: true,
			applies:  takesWrites,
			measures: []measure{{name: "single writes, delivered, server and load on both cores", unit: "/s", ratio: floor}},
		},
		{
			key: "latency", run: latency, applies: isBroker,
			measures: []measure{
				{name: "latency at 2,000/s, p50", unit: "ms", lessIsBest: true},
				{name: "latency at 2,000/s, p99", unit: "ms", lessIsBest: true},
				{name: "latency at 2,000/s, p99.9", unit: "ms", lessIsBest: true},
			},
		},
		{
			key: "channel", run: idleChannels, steady: true, applies: func(p *peer) bool { return p.create },
			measures: []measure{{name: "memory of an idle channel", unit: "KB", lessIsBest: true, guard: 1.1}},
		},
	}
}

// idleWorks returns a work for each transport that measures idle readers.
func idleWorks() (all []*work) {
	for _, transport := range []struct {
		key, name, ratio string
		guard            float64
	}{
		{"http", "HTTP/1.1", "", 10},
		{"sse", "SSE over HTTP/1.1", "", 0},
		// A stream of HTTP/2 cannot leave net/http. So it is compared with the least that one costs there.
		{"h2", "HTTP/2, 100 on a connection", idleFloor, 1.5},
		{"websocket", "WebSocket", "", 12},
	} {
		all = append(all, &work{
			key: "idle-" + transport.key, run: idleReaders(transport.key), applies: serves(transport.key),
			settings: settings{h2c: transport.key == "h2"}, steady: true,
			measures: []measure{{name: "memory of an idle reader, " + transport.name, unit: "KB", lessIsBest: true, ratio: transport.ratio, guard: transport.guard}},
		})
	}
	return all
}

// liveWorks returns works that measure messages to a growing number of channels.
func liveWorks() (all []*work) {
	for _, n := range []int{1, 100, 10_000, 100_000} {
		all = append(all, &work{
			key: fmt.Sprintf("live-%d", n), run: liveChannels(n), applies: func(p *peer) bool { return p.create },
			settings: settings{h2c: true},
			measures: []measure{{name: fmt.Sprintf("CPU for a message at 4,000/s, %d channels", n), unit: "µs", lessIsBest: true}},
		})
	}
	return all
}

// producers is the number of connections that write at once.
const producers = 64

// singleWrites returns a work: each producer writes one message after the other and waits for each reply. The producers
// share the channels. Each channel has a consumer that reads it.
func singleWrites(channels int) func(context.Context, *session) ([]float64, error) {
	return func(ctx context.Context, s *session) ([]float64, error) {
		loops, err := s.singleWriters(channels)
		if err != nil {
			return nil, err
		}
		var l *closedLoop
		n, err := s.perCPU(ctx, loops, func(running *closedLoop) int64 {
			l = running
			return s.progress(running)
		})
		if err == nil && s.peer.channels != nil {
			err = s.delivered(l.done.Load())
		}
		return []float64{n}, err
	}
}

// progress returns how many messages were delivered. If the server delivers nothing, it returns how many requests were
// answered.
func (s *session) progress(l *closedLoop) int64 {
	if s.peer.channels == nil {
		return l.done.Load()
	}
	return s.counter.N()
}

func (s *session) singleWriters(channels int) ([]loop, error) {
	cs, err := s.read(channels)
	if err != nil {
		return nil, err
	}
	loops := make([]loop, producers)
	for i := range loops {
		if cs == nil {
			loops[i] = repeat(load.Post("/write/main.AAAAAAAAAAAAAAAAAAAAAA/bench", body(), jsonType), 1)
		} else {
			loops[i] = repeat(cs[i%channels].post(body()), 1)
		}
	}
	return loops, nil
}

// bothCoresWrites is a work like singleWrites. It measures writes per second of real time, not of CPU time.
func bothCoresWrites(_ context.Context, s *session) ([]float64, error) {
	loops, err := s.singleWriters(producers)
	if err != nil {
		return nil, err
	}
	l, err := s.run(loops)
	if err != nil {
		return nil, err
	}
	time.Sleep(warmUp)
	n, began := s.progress(l), time.Now()
	time.Sleep(s.duration)
	rate := float64(s.progress(l)-n) / time.Since(began).Seconds()
	return []float64{rate}, l.stop()
}

// batchWrites is a work: each request writes one message to 100 channels.
func batchWrites(ctx context.Context, s *session) ([]float64, error) {
	const channels, writers = 100, 8
	cs, err := s.read(channels)
	if err != nil {
		return nil, err
	}
	loops := make([]loop, writers)
	for i := range loops {
		loops[i] = repeat(s.peer.batch(cs, body()), channels)
	}
	var l *closedLoop
	n, err := s.perCPU(ctx, loops, func(running *closedLoop) int64 {
		l = running
		return s.counter.N()
	})
	if err == nil {
		err = s.delivered(l.done.Load())
	}
	return []float64{n}, err
}

// ingest is a work: endless streams carry messages for many channels. The buffers of the channels may be full, so the
// server takes messages only as fast as its readers do.
func ingest(ctx context.Context, s *session) ([]float64, error) {
	cs, err := s.read(producers)
	if err != nil {
		return nil, err
	}
	// Each write sends one chunk with several lines for each channel.
	var lines strings.Builder
	for range 8 {
		for _, c := range cs {
			lines.WriteString(`{"channel":"` + c.address + `","streamId":"bench","body":` + body() + "}\n")
		}
	}
	chunk := []byte(strconv.FormatInt(int64(lines.Len()), 16) + "\r\n" + lines.String() + "\r\n")
	next := func(conn *load.Conn) (int64, error) {
		_, err := conn.Write(chunk)
		return int64(8 * len(cs)), err
	}
	const streams = 4
	loops := make([]loop, streams)
	for i := range loops {
		began := false
		loops[i] = func(conn *load.Conn) (int64, error) {
			if !began {
				began = true
				if _, err := conn.Write(ingestHead); err != nil {
					return 0, err
				}
			}
			return next(conn)
		}
	}
	n, err := s.perCPU(ctx, loops, func(*closedLoop) int64 { return s.counter.N() })
	return []float64{n}, err
}

var ingestHead = []byte("POST /write HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")

// create is a work: it creates channels.
func create(ctx context.Context, s *session) ([]float64, error) {
	if _, err := s.peer.channels(s.server.address, 1); err != nil { // a server with a journal creates none before it has read it
		return nil, err
	}
	loops := make([]loop, producers)
	for i := range loops {
		loops[i] = repeat(load.Post("/create", ""), 1)
	}
	n, err := s.perCPU(ctx, loops, func(l *closedLoop) int64 { return l.done.Load() })
	return []float64{n}, err
}

// latency is a work: it sends messages at a constant rate, whatever the server does. Each message is timed from right
// before it is sent until its consumer has it.
func latency(ctx context.Context, s *session) ([]float64, error) { return latencyOf(ctx, s, s.read) }

func latencyOf(ctx context.Context, s *session, open func(channels int) ([]channel, error)) ([]float64, error) {
	const rate, channels = 2000, 20
	warm := rate / 2
	total := warm + int(s.duration.Seconds()*rate)
	s.counter = load.NewStopwatch(total)
	cs, err := open(channels)
	if err != nil {
		return nil, err
	}
	if err := s.pace(ctx, rate, total, func(i int) load.Request { return cs[i%channels].post(stampedBody()) }); err != nil {
		return nil, err
	}
	if err := s.delivered(int64(total)); err != nil {
		return nil, err
	}
	took := s.counter.Took()[warm:]
	slices.Sort(took)
	quantile := func(q float64) float64 {
		return float64(took[int(q*float64(len(took)-1))]) / float64(time.Millisecond)
	}
	return []float64{quantile(0.5), quantile(0.99), quantile(0.999)}, nil
}

// idleReaders returns a work that measures the memory of a waiting reader together with its channel.
func idleReaders(transport string) func(context.Context, *session) ([]float64, error) {
	return func(ctx context.Context, s *session) ([]float64, error) {
		const readers = 5000
		before, err := s.server.rss()
		if err != nil {
			return nil, err
		}
		cs, err := s.peer.channels(s.server.address, readers)
		if err != nil {
			return nil, err
		}
		if err := s.subscribe(cs, transport); err != nil {
			return nil, err
		}
		return s.grown(ctx, before, readers)
	}
}

// grown waits until the server has come to rest. It returns by how many KB the server's memory has grown per thing, for
// n things.
func (s *session) grown(ctx context.Context, before int64, n int) ([]float64, error) {
	time.Sleep(2 * time.Second)
	after, err := s.server.rss()
	if s.profiles != "" {
		s.profile(ctx, "heap", "heap?gc=1")
		s.profile(ctx, "goroutines", "goroutine?debug=2")
		s.profile(ctx, "memstats", "heap?debug=1")
	}
	return []float64{float64(after-before) / float64(n) / 1000}, err
}

// idleChannels is a work that measures the memory of an unused channel.
func idleChannels(ctx context.Context, s *session) ([]float64, error) {
	const channels = 50_000
	before, err := s.server.rss()
	if err != nil {
		return nil, err
	}
	if _, err := s.peer.channels(s.server.address, channels); err != nil {
		return nil, err
	}
	return s.grown(ctx, before, channels)
}

// liveChannels returns a work that measures the CPU time per message. Messages go at a constant rate to random channels
// out of n. Each channel has a reader.
func liveChannels(n int) func(context.Context, *session) ([]float64, error) {
	return func(ctx context.Context, s *session) ([]float64, error) {
		const rate = 4000
		cs, err := s.peer.channels(s.server.address, n)
		if err != nil {
			return nil, err
		}
		if err := s.subscribe(cs, "h2"); err != nil {
			return nil, err
		}
		if err := s.settle(); err != nil {
			return nil, err
		}
		sent := make(chan error, 1)
		total := int((s.duration + 2*warmUp).Seconds() * rate)
		go func() {
			sent <- s.pace(ctx, rate, total, func(int) load.Request { return cs[rand.IntN(n)].post(body()) }) //nolint:gosec // no secret
		}()
		time.Sleep(warmUp)
		cpu, arrived, err := s.measure(ctx, s.counter.N)
		if err != nil {
			return nil, err
		}
		if err := <-sent; err != nil {
			return nil, err
		}
		return []float64{float64(cpu.Microseconds()) / float64(arrived)}, s.delivered(int64(total))
	}
}

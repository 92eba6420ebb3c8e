package disk

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// piece makes a message that is merged.
func piece(tb testing.TB, stream, body, key string, how broker.Merge) *broker.Message {
	tb.Helper()
	m, err := broker.NewMessage(stream, []byte(body), key)
	if err != nil {
		tb.Fatal(err)
	}
	return m.WithMerge(how)
}

// publish writes messages to channels.
func publish(tb testing.TB, b *Broker, producers []string, ms ...*broker.Message) {
	tb.Helper()
	l := brokerfixture.Limits
	l.Buffer = 1000
	for _, outcome := range b.PublishBatch(tb.Context(), producers, ms, l) {
		if outcome.Err != nil {
			tb.Error(outcome.Err)
		}
	}
}

// linesOf returns what a channel holds.
func linesOf(tb testing.TB, b *Broker, address string) (lines []string) {
	tb.Helper()
	ms, err := b.Peek(tb.Context(), address, 1000)
	if err != nil {
		tb.Fatal(err)
	}
	for _, m := range ms {
		lines = append(lines, fmt.Sprintf("%s %v %v", m.Line(), m.Keyed(), m.Merge()))
	}
	return lines
}

// TestMergedMessagesOutliveRestarts: messages of some channels are merged at random, in one call for all or for one, by small and
// large pieces, while other messages fill segments, so that what lives is copied again and again. After each restart, all is as it
// was, also for repeats.
func TestMergedMessagesOutliveRestarts(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			f := &testFolder{}
			b := openTest(t, f, Process)
			defer func() { b.Close() }()
			var channels []broker.Addresses
			var producers, keys []string
			for range 4 {
				a, err := b.Create(t.Context(), "agent", brokerfixture.Limits)
				if err != nil {
					t.Fatal(err)
				}
				channels, producers = append(channels, a), append(producers, a.Producer)
			}
			other := producers[3] // whose messages come and go
			first := uint64(0)
			for i := range 400 {
				to := producers[:3]
				if random.IntN(2) == 0 {
					to = producers[random.IntN(3):][:1]
				}
				key := ""
				if random.IntN(4) == 0 {
					key = fmt.Sprint("key-", i)
					keys = append(keys, key)
				}
				size := []int{1, 10, 100, 3000}[random.IntN(4)]
				how := min(broker.Merge(random.IntN(10)), broker.MergeAppend) // most are appended
				publish(t, b, to, piece(t, strconv.Itoa(random.IntN(20)/19), strconv.Quote(strings.Repeat("x", size)), key, how))
				publish(t, b, []string{other}, piece(t, "other", strconv.Quote(strings.Repeat("y", 3000)), "", broker.MergeNone))
				if i%20 == 0 {
					s, err := b.Subscribe(t.Context(), channels[3].Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
					if err != nil {
						t.Fatal(err)
					}
					for ms, _ := s.Take(nil, 1<<20); len(ms) > 0; ms, _ = s.Take(nil, 1<<20) {
						s.Settle(ms[len(ms)-1].ID())
					}
					s.End(broker.EndClean)
					time.Sleep(retryInterval) // for the maintainer
					synctest.Wait()           // the maintainer changes what is read here
					if first = b.log.head.sequence; len(b.log.sealed) > 0 {
						first = b.log.sealed[0].sequence
					}
				}
				if i%50 != 49 {
					continue
				}
				before, wantStats := [][]string{}, b.Stats()
				for _, a := range channels {
					before = append(before, linesOf(t, b, a.Consumer))
				}
				image := f.content()
				b.Close()
				f = folderOf(image)
				b = openTest(t, f, Process)
				for i, a := range channels {
					if got := linesOf(t, b, a.Consumer); !slices.Equal(got, before[i]) {
						t.Fatalf("seed %d: after a restart the channel holds %.300q, want %.300q", seed, got, before[i])
					}
				}
				if got := b.Stats(); got.Pending != wantStats.Pending || got.InFlight != wantStats.InFlight {
					t.Fatalf("after a restart there are %d and %d messages, want %d and %d", got.Pending, got.InFlight, wantStats.Pending, wantStats.InFlight)
				}
				repeats := b.Stats().Duplicates
				for _, key := range keys[max(0, len(keys)-50):] {
					publish(t, b, producers[:3], piece(t, "0", `"repeat"`, key, broker.MergeAppend))
				}
				// Each key was written to one channel, or to all three. Now all three have it.
				if again := b.Stats().Duplicates - repeats; again < uint64(min(len(keys), 50)) {
					t.Fatalf("only %d of %d repeats are dropped", again, min(len(keys), 50))
				}
			}
			if first < 5 {
				t.Errorf("the oldest segment is %d: hardly anything was copied", first)
			}
		})
	}
}

// TestATextThatGrowsCostsItsPieces on the disk, not the whole text for each piece.
func TestATextThatGrowsCostsItsPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openTest(t, &testFolder{}, Process)
		defer b.Close()
		a, err := b.Create(t.Context(), "agent", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		const pieces = 2000
		for range pieces {
			publish(t, b, []string{a.Producer}, piece(t, "s", `"a word or two"`, "", broker.MergeAppend))
		}
		var written int
		b.log.locked(func() { written = int(b.log.head.sequence-1)*smallSegment + b.log.head.end })
		if written > 300*pieces {
			t.Errorf("%d pieces take %d bytes", pieces, written)
		}
	})
}

// TestNoPieceCountsBehindAMissingOne: what is left of a text after a repair is its beginning.
func TestNoPieceCountsBehindAMissingOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFolder{}
		b := openTest(t, f, Process)
		a, err := b.Create(t.Context(), "agent", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 9 {
			publish(t, b, []string{a.Producer}, piece(t, "s", strconv.Quote(strconv.Itoa(i)), "", broker.MergeAppend))
		}
		time.Sleep(untilSynced)
		b.Close()
		image := f.content()
		name, end := onlySegment(t, image)
		begin, size := segmentHeader, 0 // of the record in the middle
		for i := 0; i <= 5; i++ {
			begin += size
			payload, err := payloadAt(image[name], 1, begin)
			if err != nil {
				t.Fatal(err)
			}
			size = recordSize(len(payload))
		}
		if begin+size >= end {
			t.Fatalf("record 5 ends at %d of %d", begin+size, end)
		}
		image[name][begin+recordHeader+20] ^= 1
		f = folderOf(image)
		report, _, err := repair(t.Context(), f, smallSegment, nil)
		if err != nil || report.Missing != 4 || report.Messages != 1 {
			t.Fatalf("the report is %+v, error %v", report, err)
		}
		b = openTest(t, f, Process)
		defer b.Close()
		if got := linesOf(t, b, a.Consumer); len(got) != 1 || !strings.Contains(got[0], `"body":"0123"}`) {
			t.Errorf("the channel holds %q", got)
		}
	})
}

// TestAReaderGetsWhatIsDurable, and soon, however fast a text grows: a piece that is merged makes the whole wait for the disk
// once more.
func TestAReaderGetsWhatIsDurable(t *testing.T) {
	for _, pause := range []time.Duration{0, 100 * time.Microsecond, 3 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			f := &testFolder{syncTime: time.Millisecond}
			b := openTest(t, f, Disk)
			defer b.Close()
			l := brokerfixture.Limits
			l.Buffer = 3
			a, err := b.Create(t.Context(), "agent", l)
			if err != nil {
				t.Fatal(err)
			}
			s, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l, Acknowledged: true})
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			ms := make([]*broker.Message, 300)
			for i := range ms {
				ms[i] = piece(t, "s", strconv.Quote(fmt.Sprint(i, " ")), "", broker.MergeAppend)
				want += fmt.Sprint(i, " ")
			}
			go func() {
				in := b.Ingest(l)
				for i, m := range ms {
					if err := in.Write(t.Context(), i, []byte(a.Producer), m); err != nil {
						t.Error(err)
					}
					time.Sleep(pause)
				}
				if result := in.Finish(t.Context()); result.Written != len(ms) {
					t.Errorf("the result is %+v", result)
				}
			}()
			got, taken, last := "", 0, time.Now()
			for got != want && !t.Failed() {
				select {
				case <-s.Ready():
				case <-time.After(time.Second):
					t.Fatalf("the reader has waited a second for what follows %q", got)
				}
				ms, _ := s.Take(nil, 1<<20)
				for _, m := range ms {
					taken++
					got += strings.Trim(string(m.Body()), `"`)
				}
				if !strings.HasPrefix(want, got) {
					t.Fatalf("the reader has %q", got)
				}
				if len(ms) == 0 {
					continue
				}
				if waited := time.Since(last); waited > 10*time.Millisecond {
					t.Errorf("the reader has waited %v", waited)
				}
				last = time.Now()
				f.mu.Lock()
				image := f.durableImage(nil)
				f.mu.Unlock()
				again := openTest(t, folderOf(image), Process)
				held := linesOf(t, again, a.Consumer)
				if !strings.Contains(strings.Join(held, ""), ms[len(ms)-1].ID().String()) {
					t.Errorf("the reader got %s, and the disk has %q", ms[len(ms)-1].Line(), held)
				}
				again.Close()
				s.Settle(ms[len(ms)-1].ID())
				time.Sleep(time.Duration(taken%3) * time.Millisecond) // sometimes slow, so that there is something to merge
			}
			t.Logf("pause %v: %d pieces came as %d messages", pause, len(ms), taken)
		})
	}
}

// TestASyncThatBeganBeforeAPieceCameDoesNotShowIt: it makes durable only what the message was then.
func TestASyncThatBeganBeforeAPieceCameDoesNotShowIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const syncTime = 10 * time.Millisecond
		b := openTest(t, &testFolder{syncTime: syncTime}, Disk)
		defer b.Close()
		a, err := b.Create(t.Context(), "agent", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{`"a"`, `"b"`} {
			go publish(t, b, []string{a.Producer}, piece(t, "s", body, "", broker.MergeAppend))
			time.Sleep(syncTime / 2)
		}
		time.Sleep(syncTime / 4) // the first sync is over, and the second one is not
		s, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
		if err != nil {
			t.Fatal(err)
		}
		if ms, _ := s.Take(nil, 1<<20); len(ms) > 0 {
			t.Errorf("the reader got %s too early", ms[0].Line())
		}
		go publish(t, b, []string{a.Producer}, piece(t, "another", `"c"`, "", broker.MergeAppend))
		time.Sleep(syncTime)
		select {
		case <-s.Ready():
		default:
			t.Error("the reader is not told of the message")
		}
		if ms, _ := s.Take(nil, 1<<20); len(ms) != 1 || string(ms[0].Body()) != `"ab"` {
			t.Errorf("the reader got %d messages", len(ms))
		}
		time.Sleep(syncTime)
		if ms, _ := s.Take(nil, 1<<20); len(ms) != 1 || string(ms[0].Body()) != `"c"` {
			t.Errorf("the reader got %d messages, want the last one", len(ms))
		}
	})
}

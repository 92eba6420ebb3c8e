package disk

import (
	"context"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// recorded uses a Broker for a while and returns its files, as a killed process leaves them, and what was done.
func recorded(t *testing.T, steps int, clean bool) (image map[string][]byte, h facts) {
	t.Helper()
	f := &testFolder{}
	b := openTest(t, f, Process)
	next := 0
	l := newLoad(b, 7, &next, func(a act, done bool, consumer string, n int) {
		h = append(h, fact{0, a, done, consumer, n})
	})
	l.large = 300
	for range steps {
		l.step(t.Context())
	}
	if clean {
		b.Close()
		return f.content(), h
	}
	image = f.content()
	b.Close()
	return image, h
}

// onlySegment returns the one segment that has records.
func onlySegment(t *testing.T, image map[string][]byte) (name string, end int) {
	t.Helper()
	for name, data := range image {
		h, err := parseHeader(data)
		if err != nil {
			delete(image, name) // it was only prepared
			continue
		}
		end, err = readRecords(data, h.sequence, len(data), func(int, []byte, *record) bool { return true })
		if err != nil || end == segmentHeader {
			t.Fatalf("%s: end %d, error %v", name, end, err)
		}
		if len(image) > 2 {
			t.Fatalf("there are %d segments", len(image))
		}
		return name, end
	}
	t.Fatal("there is no segment")
	return "", 0
}

// opens starts a Broker on damaged files, and reports whether it starts. What it has, somebody has written.
func opens(t *testing.T, image map[string][]byte, h facts) (b *Broker, starts bool) {
	t.Helper()
	b = Open(Options{segment: smallSegment, folder: folderOf(image)})
	if err := b.Start(t.Context()); err != nil {
		b.Close()
		return nil, false
	}
	var begun facts // nothing was promised of a damaged journal
	for _, f := range h {
		if !f.done {
			begun = append(begun, f)
		}
	}
	begun.check(t, b, 1, false)
	return b, true
}

// TestATornTailIsCut cuts a segment off at every byte of its last records: all records before are there.
func TestATornTailIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image, h := recorded(t, 40, false)
		name, end := onlySegment(t, image)
		whole := image[name]
		for cut := end; cut > max(segmentHeader, end-600); cut-- {
			// As a process that is killed leaves it, and as a file that is too short.
			for _, data := range [][]byte{append(whole[:cut:cut], make([]byte, len(whole)-cut)...), whole[:cut:cut]} {
				b, starts := opens(t, map[string][]byte{name: data}, h)
				if !starts {
					t.Fatalf("cut off at %d of %d, it does not start", cut, end)
				}
				if cut == end {
					h.check(t, b, 1, true)
				}
				b.Close()
				if t.Failed() {
					t.Fatalf("cut off at %d of %d", cut, end)
				}
			}
		}
	})
}

// TestAFlippedBitIsFound flips one bit of every byte of a segment, one after the other. In a part that was durable, the
// Broker refuses to start and says what to do. In the rest, it leaves the record and all later ones out.
func TestAFlippedBitIsFound(t *testing.T) {
	for name, clean := range map[string]bool{"durable": true, "not durable": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				image, h := recorded(t, 15, clean)
				name, end := onlySegment(t, image)
				refused, durable := 0, mark(image[name])
				for at := range end {
					data := slices.Clone(image[name])
					data[at] ^= 1 << (at % 8)
					b := Open(Options{segment: smallSegment, folder: folderOf(map[string][]byte{name: data})})
					err := b.Start(t.Context())
					b.Close()
					if err != nil {
						refused++
						if !strings.Contains(err.Error(), name) || at >= durable {
							t.Errorf("a flipped bit at %d: %v", at, err)
						}
						continue
					}
					if b, starts := opens(t, map[string][]byte{name: data}, h); starts {
						b.Close()
					}
					if t.Failed() {
						t.Fatalf("a flipped bit at %d of %d", at, end)
					}
				}
				// A bit of the mark itself, or between records, changes nothing.
				if clean && (durable != end || refused < durable*3/4) {
					t.Errorf("%d of %d flipped bits are refused", refused, durable)
				}
			})
		})
	}
}

// TestASegmentThatIsTooShortIsFound, as a copy leaves it for which there was no room: what it lacks was durable. It is found also if
// the file ends where a record ends.
func TestASegmentThatIsTooShortIsFound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		for range 200 { // more than a segment
			f.write(nil)
		}
		time.Sleep(untilSynced)
		f.broker.Close()
		for n := uint64(1); n <= 2; n++ {
			name := segmentName(n)
			whole := f.folder.content()[name]
			var ends []int // of some records
			end, err := readRecords(whole, n, len(whole), func(offset int, _ []byte, _ *record) bool {
				ends = append(ends, offset)
				return true
			})
			if err != nil || len(ends) < 50 {
				t.Fatalf("%s has %d records; error %v", name, len(ends), err)
			}
			for _, cut := range []int{ends[0], ends[1], ends[len(ends)/2], ends[len(ends)-1], end - 1, segmentHeader + 1} {
				image := f.folder.content()
				image[name] = whole[:cut]
				b := Open(Options{segment: smallSegment, folder: folderOf(image)})
				if err := b.Start(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%s is cut off at %d of %d: error %v", name, cut, end, err)
				}
				b.Close()
				report, err := check(t.Context(), folderOf(image), nil)
				if err != nil || len(report.Damages) != 1 || !report.Damages[0].Middle || report.Damages[0].Bytes <= 0 {
					t.Errorf("%s is cut off at %d of %d: the report is %+v, error %v", name, cut, end, report, err)
				}
				if _, kept, err := repair(t.Context(), folderOf(image), smallSegment, nil); err != nil || kept == "" {
					t.Errorf("%s is cut off at %d of %d: repair: error %v", name, cut, end, err)
				}
			}
		}
	})
}

// TestADamagedTailIsLeftOutOnce: the next start finds no damage any more, and has what the first one had.
func TestADamagedTailIsLeftOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image, h := recorded(t, 40, false)
		name, end := onlySegment(t, image)
		image[name][end-20] ^= 1
		f := folderOf(image)
		var before []int
		for i := range 3 {
			r, err := readJournal(t.Context(), f, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			if damages := len(r.report.Damages); (damages > 0) != (i == 0) {
				t.Errorf("start %d finds %v", i, r.report.Damages)
			}
			r.close()
			b := Open(Options{segment: smallSegment, folder: f})
			if err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			now := allNumbers(t, b, h)
			if i > 0 && !slices.Equal(now, before) {
				t.Errorf("start %d has %v, and the one before had %v", i, now, before)
			}
			before = now
			b.Close()
		}
		if len(before) == 0 {
			t.Error("nothing is there")
		}
	})
}

// TestAStartOnADamagedJournalMayBeInterrupted: messages are missing, so those behind them are written again. Whenever the process is
// killed meanwhile, or loses its power, the next start has the same messages, each once and in order.
func TestAStartOnADamagedJournalMayBeInterrupted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		for range 200 { // more than a segment
			f.write(nil)
		}
		time.Sleep(untilSynced)
		image := f.folder.content()
		for _, data := range image {
			clear(data[markOffset : markOffset+16]) // as if nothing had been durable
		}
		image[segmentName(1)][smallSegment/2] ^= 1
		damaged := folderOf(image)
		var images []map[string][]byte
		damaged.crash = func(_ int, durable map[string][]byte) {
			killed := map[string][]byte{}
			for name, file := range damaged.files {
				killed[name] = slices.Clone(file.seen)
			}
			images = append(images, durable, killed)
		}
		held := func(folder folder) []string {
			b := openTest(t, folder, Process)
			defer b.Close()
			return linesOf(t, b, f.a.Consumer)
		}
		want := held(damaged)
		if len(want) < 100 || len(want) > 190 || len(images) < 200 {
			t.Fatalf("%d messages are left, after %d operations", len(want), len(images)/2)
		}
		for i := 0; i < len(images); i += 3 { // which meets both kinds
			if got := held(folderOf(images[i])); !slices.Equal(got, want) {
				t.Fatalf("interrupted at operation %d of %d, it has %d messages, want %d", i/2+1, len(images)/2, len(got), len(want))
			}
		}
	})
}

// allNumbers returns the numbers of all messages in the channels of a test.
func allNumbers(t *testing.T, b broker.Broker, h facts) (numbers []int) {
	t.Helper()
	var consumers []string
	tracks, _ := h.sumUp(1)
	for consumer := range tracks {
		consumers = append(consumers, consumer)
	}
	slices.Sort(consumers)
	for _, consumer := range consumers {
		ms, err := b.Peek(t.Context(), consumer, 1<<20)
		if err != nil {
			continue
		}
		numbers = append(numbers, numbersOf(ms)...)
	}
	return numbers
}

// FuzzJournal reads arbitrary records whose checksums are right, and arbitrary bytes.
func FuzzJournal(f *testing.F) {
	id := appendID(nil, kindDelete, journal.ID{Place: 1, Tag: 2})
	f.Add(id, []byte("x"), true)
	m, err := broker.NewMessage("stream", []byte("1"), "key")
	if err != nil {
		f.Fatal(err)
	}
	is, line := journal.ID{Place: 1, Tag: 2}, m.Line()
	channel := appendChannel(nil, &journal.Channel{ID: is, Agent: "main", Move: journal.Move{LetGoKeys: []broker.EventID{m.ID()}}})
	f.Add(channel, append(appendPut(nil, is, 1, flags{}), line...), true)
	f.Add(channel, append(appendPart(nil, is, 1, flags{}, crc32.Checksum(line, castagnoli), len(line), 0), line...), true)
	f.Add(append(appendPut(nil, is, 1, flags{}), line...), appendSame(nil, is, 2, segmentHeader), true)
	f.Add(channel, appendMove(nil, is, &journal.Move{Taken: 2, LetGo: 1, LetGoID: m.ID(), LetGoKeys: []broker.EventID{m.ID()}}), true)
	topic := &journal.Topic{ID: journal.ID{Place: journal.TopicPlace | 1, Tag: 3}, Name: "news", Keep: broker.Keep{Bytes: 1000, TTL: time.Hour}}
	if topic.End, err = broker.NewEnd("stream", broker.EndDone); err != nil {
		f.Fatal(err)
	}
	f.Add(appendTopic(nil, topic), append(appendPut(nil, topic.ID, 1, flags{}), line...), true)
	f.Add(channel, appendTopic(nil, topic), true)
	f.Add(appendTopic(nil, topic), appendTopic(nil, &journal.Topic{ID: journal.ID{Place: journal.TopicPlace, Tag: 4}, Name: "news"}), true)
	f.Add(channel, appendJoin(nil, kindJoin, is, topic.ID, false), true)
	f.Add(appendTopic(nil, topic), appendJoin(nil, kindJoin, is, topic.ID, true), true)
	f.Add(channel, appendJoin(nil, kindLeave, is, topic.ID, false), true)
	f.Add(channel, appendMark(nil, is, 1, journal.Mark{Missed: 3, Gap: true}), true)
	f.Add(channel, appendMember(nil, &journal.Member{ID: is, Topics: []journal.ID{topic.ID}, Marks: []journal.Marks{
		{Position: 1, Count: 1 << 29, Mark: journal.Mark{Outside: true}}, {Position: 2, Count: 1, Mark: journal.Mark{Missed: 1}},
	}}), true)
	f.Add(channel, appendRead(nil, is, &journal.Read{Follows: true, TTL: time.Second, LastRead: time.Unix(1, 0)}), true)
	f.Fuzz(func(t *testing.T, first, second []byte, sum bool) {
		data := make([]byte, segmentHeader+recordSize(len(first))+recordSize(len(second))+64)
		s := &segment{sequence: 1, mem: data, file: &testFile{folder: &testFolder{}, data: data}}
		if err := s.begin(&header{version: formatVersion, sequence: 1}); err != nil {
			t.Fatal(err)
		}
		for _, payload := range [][]byte{first, second} {
			if len(payload) > 0 {
				if _, err := s.append(payload, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !sum {
			copy(data[segmentHeader:], first)
		}
		r, err := readJournal(context.Background(), folderOf(map[string][]byte{segmentName(1): data}), second != nil, nil)
		if err != nil {
			return
		}
		defer r.close()
		all, _, err := r.channels()
		if err != nil {
			return
		}
		if n := len(all.channels); n > 0 && all.channels[n-1].Place > 1000 {
			return // it would take much memory
		}
		if n := len(all.topics); n > 0 && all.topics[n-1].Place > journal.TopicPlace+1000 {
			return
		}
		b := Open(Options{segment: smallSegment, folder: &testFolder{}})
		defer b.Broker.Close()
		if err := b.log.folder.prepare(); err != nil {
			t.Fatal(err)
		}
		if err := b.log.begin(&recovery{}, false); err != nil {
			t.Fatal(err)
		}
		b.log.engine.Restore(all.topics, all.channels)
	})
}

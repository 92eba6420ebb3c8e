package megaphone

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var testLimits = Limits{
	Buffer: 100, InFlight: 100, Hold: 10 * time.Second, TTL: time.Minute, MaxChannels: 10_000_000, MaxMemory: 1 << 30,
}

func newMessage(tb testing.TB) *Message {
	tb.Helper()
	m, err := NewMessage("stream", []byte(`"body"`), "")
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestCloseEndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		l := testLimits
		l.Buffer, l.MaxMemory = 1, 1
		full, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		read, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := r.Subscribe(t.Context(), read.Consumer, SubscribeOptions{Limits: l})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Publish(t.Context(), full.Producer, newMessage(t), l); err != nil {
			t.Fatal(err)
		}
		l.MaxMemory = 1 << 20
		ended := make(chan error)
		go func() { ended <- r.Publish(t.Context(), full.Producer, newMessage(t), l) }()
		go func() {
			l := l
			l.MaxMemory = 1
			ended <- r.Publish(t.Context(), read.Producer, newMessage(t), l)
		}()
		go func() {
			in := r.Ingest(l)
			if err := in.Write(t.Context(), 0, []byte(full.Producer), newMessage(t)); err != nil {
				t.Error(err)
			}
			ended <- in.Finish(t.Context()).Failures[0].Err
		}()
		go func() {
			<-sub.Done()
			ended <- sub.Err()
		}()
		synctest.Wait()
		start := time.Now()
		r.Close()
		r.Close()
		for range 3 {
			if err := <-ended; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrMemoryLimit) {
				t.Errorf("a wait ended with %v", err)
			}
		}
		<-ended
		if time.Since(start) != 0 {
			t.Errorf("the waits ended after %v", time.Since(start))
		}
		if r.Undelivered() != 1 || r.Len() != 0 || r.MemoryUsed() != 0 {
			t.Errorf("%d undelivered, %d channels and %d bytes left", r.Undelivered(), r.Len(), r.MemoryUsed())
		}
		if _, err := r.Create(t.Context(), "main", l); !errors.Is(err, ErrClosed) {
			t.Errorf("create after close: %v", err)
		}
		if _, err := r.Subscribe(t.Context(), read.Consumer, SubscribeOptions{Limits: l}); !errors.Is(err, ErrClosed) {
			t.Errorf("subscribe after close: %v", err)
		}
	})
}

func TestExpiredChannelsAreRemovedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		defer r.Close()
		const channels = 10_000
		for range channels {
			a, err := r.Create(t.Context(), "main", testLimits)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Publish(t.Context(), a.Producer, newMessage(t), testLimits); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(testLimits.TTL - time.Nanosecond)
		if r.Len() != channels {
			t.Errorf("%d channels before their time", r.Len())
		}
		time.Sleep(sweepInterval)
		synctest.Wait()
		if r.Len() != 0 || r.Undelivered() != channels || r.MemoryUsed() != 0 || r.channels.Size() != 0 {
			t.Errorf("%d channels, %d undelivered, %d bytes, %d addresses after it",
				r.Len(), r.Undelivered(), r.MemoryUsed(), r.channels.Size())
		}
	})
}

// TestEverythingAcceptedIsTakenOrCounted lets producers, readers, deletions and expiry race, and adds up.
func TestEverythingAcceptedIsTakenOrCounted(t *testing.T) {
	r := NewRegistry()
	l := testLimits
	l.Buffer, l.InFlight, l.Hold, l.MaxMemory = 3, 2, time.Millisecond, 5_000
	var (
		addresses []Addresses
		mu        sync.Mutex
		accepted  int
		settled   int
	)
	for range 20 {
		a, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, a)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2000 {
				if r.Publish(t.Context(), addresses[rand.N(len(addresses))].Producer, newMessage(t), l) == nil {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			}
		})
		all.Go(func() {
			for range 1000 {
				n := readSome(t, r, addresses[rand.N(len(addresses))].Consumer, l)
				mu.Lock()
				settled += n
				mu.Unlock()
			}
		})
	}
	all.Go(func() {
		for _, a := range addresses[:10] {
			if err := r.Delete(t.Context(), a.Producer); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	counted := make(chan struct{})
	go func() { // while it goes on, no difference is negative
		defer close(counted)
		for range 1000 {
			if now := r.Totals(); now.Pending > 8000 || now.InFlight > 8000 {
				t.Errorf("%d pending and %d in flight of %d", now.Pending, now.InFlight, now.Accepted)
				return
			}
		}
	}()
	all.Wait()
	<-counted
	var pending, inFlight uint64
	for c := range r.list.all() {
		pending += uint64(c.queue.pending())
		inFlight += uint64(c.queue.inFlight)
	}
	totals := r.Totals()
	if totals.Pending != pending || totals.InFlight != inFlight || totals.Readers != 0 || totals.HeldProducers != 0 {
		t.Errorf("%+v, but there are %d pending and %d in flight", totals, pending, inFlight)
	}
	if totals.Accepted != uint64(accepted) || totals.Settled != uint64(settled) || totals.Created != 20 || totals.Deleted[EndDeleted] != 10 {
		t.Errorf("%+v, but accepted were %d and settled %d", totals, accepted, settled)
	}
	r.Close()
	if n := r.Totals(); n.Pending+n.InFlight != 0 || n.Deleted[EndClosed] != 10 {
		t.Errorf("%+v in the end", n)
	}
	if accepted == 0 || settled == 0 || accepted != settled+r.Undelivered() {
		t.Errorf("accepted %d, settled %d, undelivered %d", accepted, settled, r.Undelivered())
	}
	if r.MemoryUsed() != 0 || r.memory.held.Load() != 0 {
		t.Errorf("%d bytes buffered and %d held are left", r.MemoryUsed(), r.memory.held.Load())
	}
}

// readSome reads a channel for a moment and returns how many messages it has settled.
func readSome(t *testing.T, r *Registry, consumer string, l Limits) (settled int) {
	t.Helper()
	sub, err := r.Subscribe(t.Context(), consumer, SubscribeOptions{Limits: l, Acknowledged: true})
	if err != nil {
		return 0
	}
	defer sub.End(EndFault)
	for range 3 {
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) > 0 && sub.Settle(ms[len(ms)-1].ID()) {
			settled += len(ms)
		}
	}
	return settled
}

func FuzzAddress(f *testing.F) {
	secret, _ := newSecrets()
	f.Add(formatAddress("main", secret))
	f.Add("main.")
	f.Add("a.b.c")
	f.Add("main.AAAAAAAAAAAAAAAAAAAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		agent, s, ok := parseAddress(text)
		if ok && formatAddress(agent, s) != text {
			t.Errorf("%q is read as %q", text, formatAddress(agent, s))
		}
		if before, after, _ := strings.Cut(text, "."); !ok && ValidAgent(before) && !strings.ContainsAny(after, "\r\n") {
			if decoded, err := secretText.DecodeString(after); err == nil && len(decoded) == len(s) {
				t.Errorf("%q is not read", text)
			}
		}
		if redacted := RedactAddress(text); ok && len(redacted) > len(agent)+len(".1234…") {
			t.Errorf("%q is logged as %q", text, redacted)
		}
	})
}

// A secret has one spelling: no character can be another.
func TestASecretHasOneSpelling(t *testing.T) {
	want, _ := newSecrets()
	address := formatAddress("main", want)
	if _, s, ok := parseAddress(address); !ok || s != want {
		t.Errorf("%s is read as %x, not %x", address, s, want)
	}
	for i := len("main."); i < len(address); i++ {
		for c := range 256 {
			other := address[:i] + string([]byte{byte(c)}) + address[i+1:]
			_, s, ok := parseAddress(other)
			digit := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", byte(c))
			// The last digit has two bits of the secret only.
			if valid := digit >= 0 && (i < len(address)-1 || digit%16 == 0); ok != valid {
				t.Errorf("%q: %v", other, ok)
			} else if ok && (s == want) != (other == address) {
				t.Errorf("%q is read as %x", other, s)
			}
		}
	}
}

// The clock of messages is the system's, although it is not asked for each.
func TestMessagesHaveTheTimeOfDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, later := range []time.Duration{
			0, 1, 999_999_998, 1, time.Second - 1, 1, time.Second, 123_456_789 * time.Nanosecond, time.Hour, 24 * time.Hour,
		} {
			time.Sleep(later)
			m, err := NewMessage("s", []byte("1"), "")
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ TS string }
			if err := json.Unmarshal(m.Line(), &got); err != nil {
				t.Fatal(err)
			}
			now := time.Now().UTC()
			if want := now.Format("2006-01-02T15:04:05.000000000Z"); got.TS != want {
				t.Errorf("%s is told as %s", want, got.TS)
			}
			if sec, nsec := m.ID().Time().UnixTime(); sec != now.Unix() || nsec/1e6 != int64(now.Nanosecond())/1e6 {
				t.Errorf("the id has %d.%09d, not %s", sec, nsec, now)
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add("stream", []byte(`{"a": [1, 2.50, "é", null]}`), "")
	f.Add("a\"b\\c\nd", []byte("\t1e400 "), "key")
	f.Fuzz(func(t *testing.T, streamID string, body []byte, key string) {
		m, err := NewMessage(streamID, body, key)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Errorf("error %v", err)
			}
			return
		}
		var got struct {
			SID  string          `json:"sid"`
			EID  EventID         `json:"eid"`
			TS   time.Time       `json:"ts"`
			Body json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(m.JSON(), &got); err != nil {
			t.Fatalf("%q: %v", m.JSON(), err)
		}
		if got.SID != streamID || got.EID != m.ID() || got.TS.IsZero() {
			t.Errorf("line %q", m.Line())
		}
		if line := m.Line(); countByte(line, '\n') != 1 || line[len(line)-1] != '\n' {
			t.Errorf("line %q", line)
		}
		if key != "" && m.ID() != KeyedEventID(key) || key == "" && m.ID().Version() != 7 {
			t.Errorf("event id %v", m.ID())
		}
		if id, ok := ParseEventID(m.ID().String()); !ok || id != m.ID() {
			t.Errorf("event id %v is read as %v", m.ID(), id)
		}
	})
}

func countByte(p []byte, b byte) (n int) {
	for _, c := range p {
		if c == b {
			n++
		}
	}
	return n
}

func TestAChannelDoesNotExpireUnderAReaderThatHasJustCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		defer r.Close()
		a, err := r.Create(t.Context(), "main", testLimits)
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.lookup(a.Consumer, consumerKind)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Subscribe(t.Context(), a.Consumer, SubscribeOptions{Limits: testLimits}); err != nil {
			t.Fatal(err)
		}
		if r.remove(c, EndExpired) || r.Len() != 1 {
			t.Error("a channel that is read has expired")
		}
	})
}

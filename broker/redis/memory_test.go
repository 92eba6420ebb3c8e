package redis_test

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestMemory: an idle channel takes 320 bytes of Redis at most, and 100 messages of 346 bytes take 40 KB.
func TestMemory(t *testing.T) {
	needsRedis(t)
	s, err := startServer(t.TempDir(), "--zset-max-listpack-entries", "0") // as with many channels
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	b := open(t, s.options(redis.DefaultKeyPrefix))
	l := faultLimits
	l.MaxChannels, l.Buffer = 10_000, 1000
	const channels = 4096 // as many as places in the tables of Redis
	var a broker.Addresses
	create := func() {
		for range channels {
			if a, err = b.Create(t.Context(), "main", l); err != nil {
				t.Fatal(err)
			}
		}
	}
	create() // what a partition takes does not count
	before := s.memory(t)
	create()
	if each := (s.memory(t) - before) / channels; each > 320 {
		t.Errorf("an idle channel takes %d bytes", each)
	} else {
		t.Logf("an idle channel takes %d bytes", each)
	}
	var ms []*broker.Message
	for range 100 {
		m, err := broker.NewMessage("stream", []byte(`"`+strings.Repeat("x", 222)+`"`), "")
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	before = s.memory(t)
	if outcome := b.PublishBatch(t.Context(), []string{a.Producer}, ms, l)[0]; outcome.Err != nil {
		t.Fatal(outcome.Err)
	}
	if all := s.memory(t) - before; all > 40_000 {
		t.Errorf("100 messages of %d bytes take %d bytes", len(ms[0].Line()), all)
	} else {
		t.Logf("100 messages of %d bytes take %d bytes", len(ms[0].Line()), all)
	}
}

// memory returns how many bytes all keys take.
func (s *server) memory(t *testing.T) (bytes int64) {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.socket}, DisableCache: true, ForceSingleClient: true, DialCtxFn: dialUnix,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	var commands []rueidis.Completed
	for _, key := range keys {
		commands = append(commands, c.B().MemoryUsage().Key(key).Samples(0).Build())
	}
	const place = 8 // in the table of all keys
	bytes = int64(len(keys) * place)
	for _, reply := range c.DoMulti(t.Context(), commands...) {
		usage, err := reply.AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		bytes += usage
	}
	return bytes
}

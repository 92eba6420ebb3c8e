package redis_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// command sends a command to the server.
func (s *server) command(t *testing.T, words ...string) rueidis.RedisResult {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.socket}, DisableCache: true, ForceSingleClient: true, DialCtxFn: dialUnix,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	reply := c.Do(t.Context(), c.B().Arbitrary(words...).Build())
	if err := reply.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatal(err)
	}
	return reply
}

// newServer starts a server that the test has for itself.
func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	needsRedis(t)
	s, err := startServer(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// TestAStartThatFailedLeavesNothing: it does not go on listening.
func TestAStartThatFailedLeavesNothing(t *testing.T) { // not parallel: it counts goroutines
	s := newServer(t)
	s.command(t, "ACL", "SETUSER", "default", "-zadd")
	b, err := redis.New(s.options("test:"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	before := listeners()
	ctx := context.WithoutCancel(t.Context())
	if err := b.Start(ctx); err == nil {
		t.Fatal("it starts without a heartbeat")
	}
	eventually(t, "nothing listens", func() bool { return listeners() == before })
	s.command(t, "ACL", "SETUSER", "default", "+zadd")
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if n := listeners(); n != before+1 {
		t.Errorf("%d goroutines listen, want %d", n, before+1)
	}
}

// listeners counts the goroutines that listen for pushed messages.
func listeners() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "(*listener).listen(")
}

// TestCloseEndsAStart: Redis takes the connection and says nothing. The process must exit all the same.
func TestCloseEndsAStart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	b, err := redis.New(redis.Options{
		Addresses: []string{l.Addr().String()}, DialTimeout: redis.DefaultDialTimeout, Timeout: redis.DefaultTimeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	closesWhileItStarts(t, b, func() {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	})
}

// TestCloseEndsAStartOnARedisThatHangs: it has said which server it is, and then nothing more.
func TestCloseEndsAStartOnARedisThatHangs(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := through(s, p)
	o.Timeout = redis.DefaultTimeout
	b, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	hangs := make(chan struct{})
	var once sync.Once
	p.edits = func(data string) string {
		if strings.Contains(data, "# Server") { // what INFO returns
			once.Do(func() {
				p.change(func() { p.stops = true })
				close(hangs)
			})
		}
		return data
	}
	closesWhileItStarts(t, b, func() { <-hangs })
}

// closesWhileItStarts closes a Broker that waits for Redis, as soon as hangs returns.
func closesWhileItStarts(t *testing.T, b *redis.Broker, hangs func()) {
	t.Helper()
	started := make(chan error, 1)
	go func() { started <- b.Start(context.WithoutCancel(t.Context())) }()
	hangs()
	begun := time.Now()
	b.Close()
	if took := time.Since(begun); took > time.Second {
		t.Errorf("Close takes %v", took)
	}
	if err := <-started; !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Start returns %v", err)
	}
}

package redis

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// errData is the error for something in Redis that this version did not write.
var errData = errors.New("redis: there is something else in place of a channel: do other programs use the same key_prefix?")

// clientOption returns what a connection needs.
func (o *Options) clientOption() rueidis.ClientOption {
	c := rueidis.ClientOption{
		InitAddress:       o.Addresses,
		Username:          o.Username,
		Password:          o.Password,
		SelectDB:          o.Database,
		TLSConfig:         o.TLS,
		ClientName:        "megaphone",
		Dialer:            net.Dialer{Timeout: o.DialTimeout},
		ConnWriteTimeout:  o.Timeout,
		DisableCache:      true,
		AlwaysPipelining:  true,
		DisableRetry:      true, // a call says itself what it knows of its outcome
		PipelineMultiplex: -1,   // one connection: calls for one channel stay in order
	}
	c.ClusterOption.ShardsRefreshInterval = topologyInterval
	if o.SentinelMaster != "" {
		c.Sentinel = rueidis.SentinelOption{
			MasterSet: o.SentinelMaster, TLSConfig: o.TLS, Dialer: c.Dialer, ClientName: c.ClientName,
			Username: o.SentinelUsername, Password: o.SentinelPassword, TopologyRefreshInterval: topologyInterval,
		}
	}
	c.ForceSingleClient = o.SentinelMaster == "" && !o.Cluster
	network := "tcp"
	if c.ForceSingleClient && strings.HasPrefix(o.Addresses[0], "/") {
		network = "unix"
	}
	c.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
		return dial(ctx, network, address, d, config)
	}
	return c
}

// dial connects to Redis.
func dial(ctx context.Context, network, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
	if config != nil {
		return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, network, address)
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return socket.Quick(conn), nil
}

// minVersion is the oldest Redis that has what the scripts use.
const minVersion = "7.0"

// checkServer refuses a server that cannot keep channels, and warns of what may lose them.
func (b *Broker) checkServer(ctx context.Context, c rueidis.Client) error {
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return fmt.Errorf("redis: cannot ask %s what it is: %w", b.where(), err)
	}
	info := parseInfo(text)
	if version := info["redis_version"]; !atLeast(version, minVersion) {
		return fmt.Errorf("redis: %s is Redis %s: use %s or later, or Valkey", b.where(), version, minVersion)
	} else if b.options.Durability.AppendOnlyFile && !atLeast(version, "7.2") {
		return fmt.Errorf("redis: durability aof needs Redis 7.2 or later, and %s is %s: upgrade it, or use durability replica", b.where(), version)
	}
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		return fmt.Errorf("redis: %s has the eviction policy %s, by which it would delete messages: set maxmemory-policy noeviction",
			b.where(), policy)
	}
	if b.options.Durability.AppendOnlyFile && info["aof_enabled"] == "0" {
		return fmt.Errorf("redis: durability aof needs an append-only file, and %s has none: set appendonly yes", b.where())
	}
	if info["cluster_enabled"] == "1" && !b.options.Cluster {
		return fmt.Errorf("redis: %s is part of a cluster: add the setting cluster", b.where())
	}
	if replicas, _ := strconv.Atoi(info["connected_slaves"]); replicas < b.options.Durability.Replicas {
		b.log.Warn("redis: there are fewer replicas than the setting durability asks for: until there are, no message is accepted",
			"replicas", replicas, "wanted", b.options.Durability.Replicas)
	}
	if info["aof_enabled"] == "0" && b.savesNothing(ctx, c) {
		b.log.Warn("redis: the server keeps nothing on disk, so a restart of it loses all channels: set appendonly yes", "address", b.where())
	}
	return nil
}

// savesNothing reports whether the server takes no snapshots. A server that does not tell counts as one that does.
func (b *Broker) savesNothing(ctx context.Context, c rueidis.Client) bool {
	values, err := c.Do(ctx, c.B().ConfigGet().Parameter("save").Build()).AsStrMap()
	save, ok := values["save"]
	return err == nil && ok && save == ""
}

// parseInfo reads the reply to INFO.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

// atLeast compares the first two numbers of versions.
func atLeast(version, least string) bool {
	parts := func(s string) (n [2]int) {
		for i, part := range strings.SplitN(s, ".", 3)[:min(2, strings.Count(s, ".")+1)] {
			n[i], _ = strconv.Atoi(part)
		}
		return n
	}
	a, b := parts(version), parts(least)
	return a[0] > b[0] || a[0] == b[0] && a[1] >= b[1]
}

// loadCodec makes the codec of addresses. If the configuration has no secret, the first node puts one into Redis. A node puts
// its own back into a Redis that has lost it: otherwise nodes that start later would have another one.
func (b *Broker) loadCodec(ctx context.Context) error {
	if b.options.AddressKey != "" {
		c := newCodec(deriveKey(b.options.AddressKey))
		b.codec.Store(&c)
		return nil
	}
	before := b.codec.Load()
	var key [keySize]byte
	if before != nil {
		key = before.key
	} else {
		_, _ = rand.Read(key[:]) // never fails, crashes instead
	}
	name, c := b.prefix+"{"+tags()[0]+"}keys", b.client
	kept, err := b.do(ctx, c, c.B().Get().Key(name).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		set := c.B().Set().Key(name).Value(rueidis.BinaryString(key[:])).Nx().Build()
		if err := b.do(ctx, c, set).Error(); err != nil && !rueidis.IsRedisNil(err) {
			return fmt.Errorf("redis: cannot keep the key of addresses: %w", err)
		}
		kept, err = b.do(ctx, c, c.B().Get().Key(name).Build()).ToString()
	}
	if err != nil {
		return fmt.Errorf("redis: cannot read the key of addresses: %w", err)
	}
	if copy(key[:], kept) != keySize || len(kept) != keySize {
		return errData
	}
	if before != nil && before.key != key {
		b.log.Warn("redis: it has another key of addresses than before: the addresses of channels from before are unknown now")
	}
	if before == nil || before.key != key {
		codec := newCodec(key)
		b.codec.Store(&codec)
	}
	return nil
}

// where names the server in errors and logs.
func (b *Broker) where() string { return strings.Join(b.options.Addresses, ", ") }

// run runs a script. The call ends after the timeout of the options.
func (b *Broker) run(ctx context.Context, s *script, keys []string, args ...string) rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	begun := time.Now()
	reply := s.run(ctx, b.client, scriptCall{keys, args})
	b.store.called(begun, reply.Error())
	return reply
}

// runAll runs a script with each of the calls, in one round trip.
func (b *Broker) runAll(ctx context.Context, s *script, calls []scriptCall) []rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	begun := time.Now()
	replies := s.runAll(ctx, b.client, calls)
	b.store.calledAll(begun, replies)
	return replies
}

// failed turns the error of a call into that of the contract. write tells that the call changes something.
func (b *Broker) failed(err error, write bool) error {
	var dial *net.OpError
	refusal, refused := rueidis.IsRedisErr(err)
	switch {
	case err == nil:
		return nil
	case write && isUnknown(err, &dial):
		return fmt.Errorf("%w: redis: %w", broker.ErrOutcomeUnknown, err)
	case b.isClosed():
		return broker.ErrClosed
	case refused && !passes(refusal.Error()):
		return fmt.Errorf("redis: %w", err)
	}
	if n := b.refusals.Due(1); n > 0 {
		b.log.Warn("redis: calls fail that succeed when it is well", "calls", n, "address", b.where(), "error", err)
	}
	if refused && strings.HasPrefix(refusal.Error(), "OOM ") {
		return fmt.Errorf("%w: redis: %w", broker.ErrMemoryLimit, err)
	}
	return fmt.Errorf("%w: redis: %w", broker.ErrUnavailable, err)
}

// passing are the codes with which Redis refuses calls for a while: it loads its data, has no memory, cannot write to its disk, has
// too few replicas, runs a long script, or is not the primary of these keys, since there is a failover or slots move.
var passing = []string{
	"LOADING", "OOM", "MISCONF", "NOREPLICAS", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK",
}

func passes(refusal string) bool {
	code, _, _ := strings.Cut(refusal, " ")
	return slices.Contains(passing, code)
}

// isUnknown reports whether the server may have done a call that has failed. It has not if it says so, or if there was no
// connection to it any more or yet.
func isUnknown(err error, dial **net.OpError) bool {
	if _, ok := rueidis.IsRedisErr(err); ok {
		return false
	}
	if errors.Is(err, rueidis.ErrClosing) {
		return false
	}
	return !errors.As(err, dial) || (*dial).Op != "dial"
}

// Package redismodule is the Broker of package redis as a Caddy module. Package redis itself knows no Caddy, and the root
// package knows it by its module only.
package redismodule

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/setting"
)

func init() { caddy.RegisterModule(new(RedisBroker)) }

// RedisBroker keeps channels and messages in Redis 7 or Valkey. Any number of servers with the same Redis and the same
// `key_prefix` share them: whichever server a request reaches, it works. Restarts of servers lose nothing. Placeholders such as
// `{env.REDIS_PASSWORD}` are supported in all texts.
type RedisBroker struct {
	// Where Redis is: `host:port`, or the path of a Unix socket. With `sentinel`, the addresses of sentinels; with `cluster`,
	// those of some of the servers. Default: `localhost:6379`.
	Addresses []string `json:"addresses,omitempty"`

	// The name of the primary that the sentinels watch. Default: none, so there are no sentinels.
	Sentinel string `json:"sentinel,omitempty"`

	// The user name for the sentinels. Default: none.
	SentinelUsername string `json:"sentinel_username,omitempty"`

	// The password for the sentinels. Default: none.
	SentinelPassword string `json:"sentinel_password,omitempty"`

	// Whether the servers are a Redis Cluster.
	Cluster bool `json:"cluster,omitempty"`

	// The user name for Redis. Default: none, which is Redis' default user.
	Username string `json:"username,omitempty"`

	// The password for Redis. Default: none.
	Password string `json:"password,omitempty"`

	// A file that holds the password, instead of `password`. Space around it does not count. Default: none.
	PasswordFile string `json:"password_file,omitempty"`

	// The number of the database. Default: 0.
	Database int `json:"database,omitempty"`

	// Encrypts the connections to Redis and to the sentinels. Default: no encryption.
	TLS *RedisTLS `json:"tls,omitempty"`

	// What every key in Redis begins with, so that several installations can share a Redis. A short one saves memory. Default:
	// `mega:`.
	KeyPrefix string `json:"key_prefix,omitempty"`

	// The secret from which the addresses of channels are made: 16 or more characters, the same on all servers. Whoever knows it
	// and what is in Redis knows all addresses. Default: the first server makes one and keeps it in Redis.
	Keys string `json:"keys,omitempty"`

	// What a message must have survived before its write succeeds: `none`, `replica` and a number of replicas that have it, or
	// `aof` for the disk of the primary (which needs Redis 7.2). Default: `none`.
	Durability string `json:"durability,omitempty"`

	// How long it may take to connect to Redis. Default: 5s.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// How long Redis may take to answer. After that, it is not known whether a write was done, and the producer gets status 503.
	// Default: 3s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	options redis.Options // set by Provision
	key     string
}

// RedisTLS says how connections to Redis are encrypted. All settings are optional.
type RedisTLS struct {
	// A file with the certificates of the authorities to trust. Default: those of the system.
	CA string `json:"ca,omitempty"`

	// A file with the certificate that this server shows. Default: none.
	Cert string `json:"cert,omitempty"`

	// A file with the key of that certificate.
	Key string `json:"key,omitempty"`

	// The name that Redis' certificate must have. Default: the host of the address.
	ServerName string `json:"server_name,omitempty"`

	// Whether to trust any certificate. Use it for tests only.
	Insecure bool `json:"insecure,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*RedisBroker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.redis", New: func() caddy.Module { return new(RedisBroker) }}
}

// Provision implements [caddy.Provisioner]. It checks the settings and reads files. It connects to nothing.
func (r *RedisBroker) Provision(ctx caddy.Context) error {
	resolved, err := r.resolved()
	if err != nil {
		return err
	}
	if r.options, err = resolved.redisOptions(); err != nil {
		return err
	}
	var files []byte
	if r.options.TLS, files, err = resolved.TLS.config(); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if err := r.options.Check(); err != nil {
		return err
	}
	settings, err := json.Marshal(resolved) //nolint:gosec // only its hash leaves this function
	if err != nil {
		return err
	}
	sum := sha256.Sum256(slices.Concat(settings, []byte(r.options.Password), files))
	r.key = hex.EncodeToString(sum[:])
	r.options.Logger = slog.New(loadedHandler{ctx.Logger()})
	return nil
}

// resolved returns the settings without placeholders.
func (r *RedisBroker) resolved() (*RedisBroker, error) {
	c := *r
	c.Addresses = append([]string(nil), r.Addresses...)
	texts := map[string]*string{
		"sentinel": &c.Sentinel, "sentinel_username": &c.SentinelUsername, "sentinel_password": &c.SentinelPassword,
		"username": &c.Username, "password": &c.Password, "password_file": &c.PasswordFile, "key_prefix": &c.KeyPrefix,
		"keys": &c.Keys, "durability": &c.Durability,
	}
	for i := range c.Addresses {
		texts["address "+strconv.Itoa(i+1)] = &c.Addresses[i]
	}
	if r.TLS != nil {
		files := *r.TLS
		c.TLS = &files
		texts["tls ca"], texts["tls cert"], texts["tls key"], texts["tls server_name"] = &files.CA, &files.Cert, &files.Key, &files.ServerName
	}
	replacer := caddy.NewReplacer()
	for name, text := range texts {
		var err error
		if *text, err = replacer.ReplaceOrErr(*text, true, true); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return &c, nil
}

// redisOptions returns the options of the Broker, except for encryption. The settings have no placeholders.
func (r *RedisBroker) redisOptions() (o redis.Options, err error) {
	o = redis.Options{
		Addresses: r.Addresses, SentinelMaster: r.Sentinel, SentinelUsername: r.SentinelUsername, SentinelPassword: r.SentinelPassword,
		Cluster: r.Cluster, Username: r.Username, Password: r.Password, Database: r.Database, KeyPrefix: r.KeyPrefix,
		AddressKey: r.Keys, DialTimeout: time.Duration(r.DialTimeout), Timeout: time.Duration(r.Timeout),
	}
	if len(o.Addresses) == 0 {
		o.Addresses = []string{redis.DefaultAddress}
	}
	setting.Default(&o.KeyPrefix, redis.DefaultKeyPrefix)
	setting.Default(&o.DialTimeout, redis.DefaultDialTimeout)
	setting.Default(&o.Timeout, redis.DefaultTimeout)
	if r.Password != "" && r.PasswordFile != "" {
		return o, errors.New("password and password_file exclude each other: leave out one of them")
	}
	setting.Default(&r.Durability, "none")
	if o.Durability, err = redis.ParseDurability(r.Durability); err != nil {
		return o, fmt.Errorf("durability: %w", err)
	}
	if r.PasswordFile != "" {
		password, err := os.ReadFile(r.PasswordFile)
		if err != nil {
			return o, fmt.Errorf("password_file: %w", err)
		}
		if o.Password = strings.TrimSpace(string(password)); o.Password == "" {
			return o, fmt.Errorf("password_file: %s is empty: write the password into it", r.PasswordFile)
		}
	}
	return o, nil
}

// config returns the configuration of TLS, or nil if there is none, and what is in its files.
func (t *RedisTLS) config() (c *tls.Config, files []byte, err error) {
	if t == nil {
		return nil, nil, nil
	}
	c = &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.Insecure, MinVersion: tls.VersionTLS12} //nolint:gosec // asked for
	if t.CA != "" {
		if files, err = os.ReadFile(t.CA); err != nil {
			return nil, nil, fmt.Errorf("ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(files) {
			return nil, nil, fmt.Errorf("ca: %s has no certificate in PEM", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, nil, errors.New("cert and key belong together: name both files, or none")
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
		files = append(files, slices.Concat(pair.Certificate...)...)
	}
	return c, files, nil
}

// A loadedHandler logs to the loaded configuration, since a Broker outlives its own. If no configuration is loaded any more, as
// when the process exits, it logs to the last one.
type loadedHandler struct{ last *zap.Logger }

func (h loadedHandler) current() slog.Handler {
	logger := h.last
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		logger = ctx.Logger(new(RedisBroker))
	}
	return zapslog.NewHandler(logger.Core(), zapslog.WithName("megaphone.brokers.redis"))
}

// Enabled implements [slog.Handler].
func (h loadedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.current().Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h loadedHandler) Handle(ctx context.Context, record slog.Record) error {
	return h.current().Handle(ctx, record)
}

// WithAttrs implements [slog.Handler]. The Broker does not use it.
func (h loadedHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements [slog.Handler]. The Broker does not use it.
func (h loadedHandler) WithGroup(string) slog.Handler { return h }

// BrokerKey implements [broker.Provider]. Every setting decides how Redis is reached, and so does what is in the files. Channels stay
// in Redis in any case.
func (r *RedisBroker) BrokerKey() string { return r.key }

// OpenBroker implements [broker.Provider].
func (r *RedisBroker) OpenBroker() (broker.Broker, error) { return redis.New(r.options) }

// Interface guards.
var (
	_ broker.Provider       = (*RedisBroker)(nil)
	_ caddy.Provisioner     = (*RedisBroker)(nil)
	_ caddyfile.Unmarshaler = (*RedisBroker)(nil)
)

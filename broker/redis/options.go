package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Options say which Redis keeps the channels, and how. They must be valid: see [Options.Check].
type Options struct {
	// Addresses are the addresses of servers: host:port, or the path of a Unix socket. One for a single server; one or more
	// of the sentinels with SentinelMaster; one or more of the servers with Cluster.
	Addresses []string
	// SentinelMaster is the name of the primary that the sentinels watch. If it is empty, there are no sentinels.
	SentinelMaster string
	// SentinelUsername and SentinelPassword are for the sentinels. They may be empty.
	SentinelUsername, SentinelPassword string
	// Cluster tells that the servers are a Redis Cluster.
	Cluster bool
	// Username and Password are for the servers. They may be empty.
	Username, Password string
	// Database is the number of the database. A cluster has only database 0.
	Database int
	// TLS encrypts connections to the servers and the sentinels. nil means no encryption.
	TLS *tls.Config
	// KeyPrefix begins every key, so that several installations may share a Redis.
	KeyPrefix string
	// AddressKey is the secret from which the addresses of channels are made. All nodes need the same one. If it is empty,
	// the first node makes one and keeps it in Redis.
	AddressKey string
	// Durability says what a message must have survived before it counts as accepted.
	Durability Durability
	// DialTimeout is how long it may take to connect to a server.
	DialTimeout time.Duration
	// Timeout is how long a call may take. If it takes longer, it is not known what became of it.
	Timeout time.Duration
	// Logger is told what an operator should know. nil means nobody is told.
	Logger *slog.Logger
}

// Default values of Options.
const (
	DefaultAddress     = "localhost:6379"
	DefaultKeyPrefix   = "mega:"
	DefaultDialTimeout = 5 * time.Second
	DefaultTimeout     = 3 * time.Second
)

// Durability says what a message must have survived before it counts as accepted. Its zero value asks for nothing: Redis
// may lose the last moments before a crash or a failover.
type Durability struct {
	// Replicas is how many replicas must have the message.
	Replicas int
	// AppendOnlyFile tells that the message must be in the append-only file on the disk of the primary. It needs Redis 7.2.
	AppendOnlyFile bool
}

// ParseDurability reads a Durability: none, replica and a number of replicas, or aof.
func ParseDurability(text string) (d Durability, err error) {
	switch words := strings.Fields(text); {
	case text == "none":
		return d, nil
	case text == "aof":
		return Durability{AppendOnlyFile: true}, nil
	case len(words) == 2 && words[0] == "replica":
		if d.Replicas, err = strconv.Atoi(words[1]); err == nil && d.Replicas > 0 {
			return d, nil
		}
	}
	return Durability{}, fmt.Errorf("%q is unknown: use none, replica and a number of replicas such as replica 1, or aof", text)
}

func (d Durability) waits() bool { return d != Durability{} }

const maxKeyPrefix = 64

// Check says what is wrong with the options.
func (o *Options) Check() error {
	switch {
	case len(o.Addresses) == 0:
		return errors.New("address: name one, for example " + DefaultAddress)
	case o.SentinelMaster != "" && o.Cluster:
		return errors.New("sentinel and cluster exclude each other: keep the one that your servers are")
	case len(o.Addresses) > 1 && o.SentinelMaster == "" && !o.Cluster:
		return fmt.Errorf("address: there are %d, but only one without sentinel or cluster: name one, or add sentinel <name> or cluster",
			len(o.Addresses))
	case o.Database < 0:
		return fmt.Errorf("database: %d is not the number of a database: use 0 or more", o.Database)
	case o.Database > 0 && o.Cluster:
		return fmt.Errorf("database: a cluster has only database 0: leave out %d", o.Database)
	case o.SentinelMaster == "" && (o.SentinelPassword != "" || o.SentinelUsername != ""):
		return errors.New("sentinel: a password for sentinels needs the name of their primary: write sentinel <name>")
	case o.Username != "" && o.Password == "":
		return errors.New("username: it needs a password: add password or password_file")
	case len(o.KeyPrefix) > maxKeyPrefix || strings.ContainsAny(o.KeyPrefix, "{}"):
		return fmt.Errorf("key_prefix: %q cannot begin keys: use at most %d characters without braces", o.KeyPrefix, maxKeyPrefix)
	case o.AddressKey != "" && len(o.AddressKey) < minAddressKey:
		return fmt.Errorf("keys: a secret of %d characters can be guessed: use %d or more, for example from openssl rand -base64 32",
			len(o.AddressKey), minAddressKey)
	case o.Durability.Replicas < 0:
		return fmt.Errorf("durability: %d is not a number of replicas: use 1 or more", o.Durability.Replicas)
	case o.DialTimeout <= 0 || o.Timeout <= 0:
		return errors.New("dial_timeout and timeout: use durations above zero, for example 3s")
	}
	for _, address := range o.Addresses {
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	return nil
}

const minAddressKey = 16

func checkAddress(address string) error {
	if strings.HasPrefix(address, "/") {
		return nil // a Unix socket
	}
	if strings.Contains(address, "://") {
		return fmt.Errorf("%q is a URL: write host:port, and the rest as settings", address)
	}
	host, port, ok := cutLast(address, ":")
	if !ok || host == "" || port == "" || strings.Trim(port, "0123456789") != "" {
		return fmt.Errorf("%q has no port: write host:port, for example %s, or the path of a Unix socket", address, DefaultAddress)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no valid port: use one from 1 to 65535, for example %s", address, DefaultAddress)
	}
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (o *Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

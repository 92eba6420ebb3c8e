package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// An authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	a.file = writePEM(t, "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for 127.0.0.1, and returns the files of it and its key.
func (a *authority) issue(t *testing.T) (cert, key string) {
	t.Helper()
	secret := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &secret.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "CERTIFICATE", der), writePEM(t, "EC PRIVATE KEY", private)
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), strings.ReplaceAll(kind, " ", ""))
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestCertificates: the server wants certificates of its clients, and the clients check its own. Both connections of a node need
// that: calls, and what is pushed.
func TestCertificates(t *testing.T) {
	t.Parallel()
	needsRedis(t)
	ca := newAuthority(t)
	cert, key := ca.issue(t)
	port := freePort(t)
	address := "127.0.0.1:" + port
	s, err := startServer(t.TempDir(), "--tls-port", port, "--bind", "127.0.0.1", "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", ca.file, "--tls-auth-clients", "yes")
	if err != nil {
		t.Skipf("this server has no TLS: %v", err)
	}
	t.Cleanup(s.stop)
	pair, err := tls.LoadX509KeyPair(ca.issue(t))
	if err != nil {
		t.Fatal(err)
	}
	o := s.options("test:")
	o.Addresses, o.TLS = []string{address}, &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{pair}}
	b := open(t, o)
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")

	for what, config := range map[string]*tls.Config{
		"a client without a certificate":   {RootCAs: ca.pool},
		"a server of an unknown authority": {RootCAs: newAuthority(t).pool, Certificates: []tls.Certificate{pair}},
		"a client without TLS":             nil,
	} {
		o.TLS, o.DialTimeout, o.Timeout = config, time.Second, time.Second
		b, err := redis.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Start(context.WithoutCancel(t.Context())); err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: Start returns %v", what, err)
		}
		b.Close()
	}
}

// TestAppendOnlyFile: with durability aof, what was accepted is there after the server was killed. Without its file, nothing is
// accepted.
func TestAppendOnlyFile(t *testing.T) {
	t.Parallel()
	needsRedis(t)
	s, err := startServer(t.TempDir(), "--appendonly", "yes", "--appendfsync", "everysec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	o := s.options("test:")
	o.Durability.AppendOnlyFile = true
	b, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.Start(context.WithoutCancel(t.Context())); err != nil && strings.Contains(err.Error(), "needs Redis 7.2 or later") {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	a := create(t, b)
	for _, name := range []string{"1", "2"} {
		if err := tryPublish(t, b, a.Producer, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.process.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = s.process.Wait()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is reached again", func() bool { return b.Healthy() == nil })
	takes(t, awaitRead(t, "the channel can be read", b, a.Consumer), "1", "2")
	s.command(t, "CONFIG", "SET", "appendonly", "no")
	if err := tryPublish(t, b, a.Producer, "3"); !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("without its file, a write fails with %v", err)
	}
}

// TestStartSaysWhatIsWrongWithTheServer: it refuses a server that would lose messages, and warns of one that may.
func TestStartSaysWhatIsWrongWithTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	start := func(change func(o *redis.Options)) (string, error) {
		o := s.options("test:")
		var log testserver.Log
		if o.Logger = log.Logger(); change != nil {
			change(&o)
		}
		b, err := redis.New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		err = b.Start(context.WithoutCancel(t.Context()))
		return log.String(), err
	}
	const warning = "so a restart of it loses all channels: set appendonly yes"
	if log, err := start(nil); err != nil || !strings.Contains(log, warning) {
		t.Errorf("without persistence, Start returns %v, and logs %s", err, log)
	}
	s.command(t, "CONFIG", "SET", "save", "3600 1")
	if log, err := start(nil); err != nil || strings.Contains(log, warning) {
		t.Errorf("with snapshots, Start returns %v, and logs %s", err, log)
	}
	if log, err := start(func(o *redis.Options) { o.Durability.Replicas = 2 }); err != nil ||
		!strings.Contains(log, "fewer replicas than the setting durability asks for") || !strings.Contains(log, "replicas=0 wanted=2") {
		t.Errorf("without replicas, Start returns %v, and logs %s", err, log)
	}
	if _, err := start(func(o *redis.Options) { o.Durability.AppendOnlyFile = true }); err == nil ||
		!strings.Contains(err.Error(), "upgrade it") && !strings.Contains(err.Error(), "set appendonly yes") {
		t.Errorf("with durability aof, Start returns %v", err)
	}
	s.command(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	if _, err := start(nil); err == nil || !strings.Contains(err.Error(), "eviction policy allkeys-lru") ||
		!strings.Contains(err.Error(), "set maxmemory-policy noeviction") {
		t.Errorf("with an eviction policy, Start returns %v", err)
	}
	p := newProxy(t, s.socket)
	version := regexp.MustCompile(`redis_version:\d\.\d`)
	p.edits = func(data string) string { return version.ReplaceAllString(data, "redis_version:6.2") }
	if _, err := start(func(o *redis.Options) { o.Addresses = []string{p.address} }); err == nil ||
		!strings.Contains(err.Error(), "is Redis 6.2.") || !strings.Contains(err.Error(), "use 7.0 or later, or Valkey") {
		t.Errorf("with an old server, Start returns %v", err)
	}
}

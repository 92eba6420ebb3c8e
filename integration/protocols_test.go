package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A protocol is a version of HTTP, as a client uses it.
type protocol struct {
	name  string
	major int
	tls   bool
	// roundTripper returns what sends requests. It sends them to the address, whatever the host in their URL.
	roundTripper func(t *testing.T, address string, roots *x509.CertPool) http.RoundTripper
	// connect is the same for extended CONNECT requests (RFC 8441), which net/http does not send. It is nil if the
	// protocol has none.
	connect func(t *testing.T, address string, roots *x509.CertPool) http.RoundTripper
}

var protocols = []protocol{
	{name: "HTTP/1.1", major: 1, roundTripper: tcpTransport((*http.Protocols).SetHTTP1)},
	{name: "h2c", major: 2, roundTripper: tcpTransport((*http.Protocols).SetUnencryptedHTTP2), connect: http2Transport(false)},
	{name: "h2", major: 2, tls: true, roundTripper: tcpTransport((*http.Protocols).SetHTTP2), connect: http2Transport(true)},
	{name: "h3", major: 3, tls: true, roundTripper: http3Transport, connect: http3Transport},
}

func tcpTransport(enable func(*http.Protocols, bool)) func(*testing.T, string, *x509.CertPool) http.RoundTripper {
	return func(t *testing.T, address string, roots *x509.CertPool) http.RoundTripper {
		t.Helper()
		transport := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			},
			TLSClientConfig: &tls.Config{RootCAs: roots},
			Protocols:       new(http.Protocols),
		}
		enable(transport.Protocols, true)
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	}
}

// http2Transport returns a transport for extended CONNECT requests, which [http.Transport] does not send.
func http2Transport(encrypted bool) func(*testing.T, string, *x509.CertPool) http.RoundTripper {
	return func(t *testing.T, address string, roots *x509.CertPool) http.RoundTripper {
		t.Helper()
		transport := &http2.Transport{
			AllowHTTP:       true,
			TLSClientConfig: &tls.Config{RootCAs: roots},
			DialTLSContext: func(ctx context.Context, _, _ string, config *tls.Config) (net.Conn, error) {
				if encrypted {
					return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
				}
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			},
		}
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	}
}

func http3Transport(t *testing.T, address string, roots *x509.CertPool) http.RoundTripper {
	t.Helper()
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		Dial: func(ctx context.Context, _ string, config *tls.Config, settings *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, address, config, settings)
		},
	}
	t.Cleanup(func() { transport.Close() })
	return transport
}

// client returns a client for the site of a host. ports has the port with TLS (true) and the one without (false).
func (p protocol) client(t *testing.T, host string, ports map[bool]int, roots *x509.CertPool) *client {
	t.Helper()
	scheme := map[bool]string{true: "https", false: "http"}[p.tls]
	return &client{
		tb:   t,
		http: &http.Client{Transport: p.roundTripper(t, address(ports[p.tls]), roots)},
		base: fmt.Sprintf("%s://%s:%d", scheme, host, ports[p.tls]),
	}
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// awaitCertificate waits until a site has its certificate. A site gets it only after it has begun to serve.
func awaitCertificate(t *testing.T, s *testserver.Server, host string, port int) {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: s.Roots(), ServerName: host}}
	s.Await(host+" has its certificate", func() bool {
		conn, err := dialer.DialContext(t.Context(), "tcp", address(port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

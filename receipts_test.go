package megaphone_test

import (
	"net"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(hides)) }

// A hides is a third party's listener wrapper. It hides the socket, and so what the system tells of it.
type hides struct{}

// CaddyModule returns the Caddy module information.
func (*hides) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.hides", New: func() caddy.Module { return new(hides) }}
}

// UnmarshalCaddyfile implements [caddyfile.Unmarshaler].
func (*hides) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// WrapListener implements [caddy.ListenerWrapper].
func (*hides) WrapListener(l net.Listener) net.Listener { return hidingListener{l} }

type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return struct{ net.Conn }{conn}, err
}

// TestUnknownIsNotDelivered has readers over connections of which the system tells nothing: their clean ends settle
// nothing, until the client reads again.
func TestUnknownIsNotDelivered(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 100ms\n}\nservers {\nlistener_wrappers {\nhides\n}\n}",
		"megaphone create write read exists manage")
	for _, kind := range []string{"reads again", "polls"} {
		c := s.create()
		s.write(c, "1")
		s.write(c, "2")
		s.read(c).ends("1", "2")
		if state := s.get("/channel/" + c.ConsumerAddress).body; !strings.Contains(state, `"inFlight":2`) {
			t.Errorf("after a clean end: %s, want 2 messages in flight", state)
		}
		if kind == "polls" { // another client, or the same that knows better now
			if r := s.poll(c); !strings.Contains(r.body, `"body":1}`) || !strings.Contains(r.body, `"body":2}`) {
				t.Errorf("a poll gets %q, want both messages", r.body)
			}
			continue
		}
		s.read(c).ends()
		if state := s.get("/channel/" + c.ConsumerAddress).body; !strings.Contains(state, `"inFlight":0`) {
			t.Errorf("the client has read again: %s, want nothing in flight", state)
		}
	}
}

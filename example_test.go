package megaphone_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

// A Go program runs Caddy with Megaphone in its own process. (A program that is just Caddy imports this package and calls
// Main of package caddycmd, as cmd/caddy does.) Here the site listens on a Unix socket.
func Example() {
	dir, err := os.MkdirTemp("", "mp")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "site.sock")
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `
{
	admin off
	persist_config off
	log {
		output discard
	}
	megaphone {
		agent main
	}
}
http:// {
	bind unix/%s
	megaphone create write read
}
`, socket), nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		log.Fatal(err)
	}
	defer func() { _ = caddy.Stop() }()

	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	response, err := client.Post("http://localhost/create", "application/json", strings.NewReader("{}"))
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	fmt.Println(response.Status, bytes.Contains(reply, []byte(`"consumerAddress":"main.`)), err)
	// Output:
	// 200 OK true <nil>
}

// ownBroker is a Caddy module that brings another [broker.Broker]. A Caddyfile chooses it with `broker own`. The test of
// such a module calls brokertest.Run.
type ownBroker struct {
	// Folder is where it keeps channels.
	Folder string `json:"folder,omitempty"`
}

func (ownBroker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.own", New: func() caddy.Module { return new(ownBroker) }}
}

func (b *ownBroker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // own
	d.Args(&b.Folder)
	return nil
}

// BrokerKey lets a new configuration with the same folder go on with the Broker of the old one.
func (b *ownBroker) BrokerKey() string { return b.Folder }

func (b *ownBroker) OpenBroker() (broker.Broker, error) {
	return memory.New(), nil // here, your own
}

var (
	_ broker.Provider       = (*ownBroker)(nil)
	_ caddyfile.Unmarshaler = (*ownBroker)(nil)
)

// A module in the namespace megaphone.brokers brings another Broker. Register it in an init function.
func Example_ownBroker() {
	caddy.RegisterModule(ownBroker{})
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`
{
	megaphone {
		broker own /var/lib/channels
	}
}
http:// {
	megaphone
}
`), nil)
	if err != nil {
		log.Fatal(err)
	}
	_, app, _ := strings.Cut(string(config), `"megaphone":`)
	fmt.Println(app)
	// Output:
	// {"broker":{"folder":"/var/lib/channels","module":"own"}}}}
}

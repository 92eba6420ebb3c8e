// Command demo is a chat in the browser. Without arguments it runs everything: Caddy with Megaphone, configured by
// demo/Caddyfile, and the chat's backend. With -journal as the first argument, rooms survive a restart. `demo backend` runs
// only the backend. With other arguments it is Caddy's command.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/demo/backend"
	"github.com/caddy-megaphone/megaphone/demo/control"
)

const caddyfile = "demo/Caddyfile"

func main() {
	folder, err := os.UserCacheDir()
	if err != nil {
		folder = os.TempDir()
	}
	defaults("DEMO_DATA", filepath.Join(folder, "megaphone-demo"))
	defaults("DEMO_MEGAPHONE", "127.0.0.1:3000")
	defaults("DEMO_PORT", "8443")
	defaults("DEMO_PAUSE", "5s")
	if len(os.Args) > 1 && os.Args[1] == "-journal" {
		_ = os.Setenv("DEMO_BROKER", "journal") // cannot fail
		os.Args = slices.Delete(os.Args, 1, 2)
	}
	switch {
	case len(os.Args) == 1:
		if _, err := os.Stat(caddyfile); err != nil {
			log.Fatalf("the demo runs in the folder that has %s: %v", caddyfile, err)
		}
		buttons := control.New(server{}, "http://"+os.Getenv("DEMO_MEGAPHONE")+"/ui/", os.Getenv("DEMO_BROKER") == "journal")
		if buttons.Pause, err = time.ParseDuration(os.Getenv("DEMO_PAUSE")); err != nil {
			log.Fatalf("DEMO_PAUSE: %v", err)
		}
		go serveBackend(buttons)
		fmt.Printf("\nThe chat is at https://localhost:%s; open it in two windows. The certificate is of a local authority,\n"+
			"which the browser does not know: go on all the same. Inside: http://%s/ui/\n\n", os.Getenv("DEMO_PORT"), os.Getenv("DEMO_MEGAPHONE"))
		os.Args = append(os.Args, "run", "--config", caddyfile)
		caddycmd.Main()
	case os.Args[1] == "backend":
		serveBackend(http.NotFoundHandler())
	default:
		caddycmd.Main()
	}
}

// defaults sets an environment variable, which the Caddyfile uses too, if it is unset or empty.
func defaults(name, value string) {
	if os.Getenv(name) == "" {
		_ = os.Setenv(name, value) // cannot fail
	}
}

// serveBackend runs the chat's backend. It never returns.
func serveBackend(buttons http.Handler) {
	defaults("DEMO_BACKEND", "127.0.0.1:8081")
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", os.Getenv("DEMO_BACKEND"))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", backend.New("http://"+os.Getenv("DEMO_MEGAPHONE")))
	mux.Handle("/demo/", buttons)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}

// A server is the Caddy of this process, for the page's buttons.
type server struct{}

func (server) Reload() error {
	text, err := os.ReadFile(caddyfile)
	if err != nil {
		return err
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": caddyfile})
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

func (server) Stop() error { return caddy.Stop() }

func (s server) Start() error { return s.Reload() }

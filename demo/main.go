// Command demo is a chat in the browser. Without arguments it runs everything: Caddy with Megaphone, configured by
// demo/Caddyfile, and the chat's backend. `demo backend` runs only the backend. With other arguments it is Caddy's
// command.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/demo/backend"
)

const caddyfile = "demo/Caddyfile"

func main() {
	switch {
	case len(os.Args) == 1:
		if _, err := os.Stat(caddyfile); err != nil {
			log.Fatalf("the demo runs in the folder that has %s: %v", caddyfile, err)
		}
		go serveBackend()
		fmt.Printf("\nThe chat is at https://localhost:%s; open it in two windows. The certificate is of a local authority,\n"+
			"which the browser does not know: go on all the same. Inside: http://%s/ui/\n\n", setting("DEMO_PORT", "8443"), megaphone())
		os.Args = append(os.Args, "run", "--config", caddyfile)
		caddycmd.Main()
	case os.Args[1] == "backend":
		serveBackend()
	default:
		caddycmd.Main()
	}
}

// setting returns an environment variable, or a default if it is unset or empty. The Caddyfile uses the same names and
// defaults.
func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func megaphone() string { return setting("DEMO_MEGAPHONE", "127.0.0.1:3000") }

// serveBackend runs the chat's backend. It never returns.
func serveBackend() {
	folder, err := os.UserCacheDir()
	if err != nil {
		folder = os.TempDir()
	}
	file := setting("DEMO_MEMORY", filepath.Join(folder, "megaphone-demo.json"))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		log.Fatal(err)
	}
	chat, err := backend.New("http://"+megaphone(), file)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", setting("DEMO_BACKEND", "127.0.0.1:8081"))
	if err != nil {
		log.Fatal(err)
	}
	go chat.Run(context.Background())
	server := &http.Server{Handler: chat, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}

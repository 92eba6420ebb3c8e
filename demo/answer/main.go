// Command answer is a page that shows answers of a language model while they are written; a stand-in writes them. Without
// arguments it runs everything: Caddy with Megaphone, configured by demo/answer/Caddyfile, and the backend. With -journal
// as the first argument, answers survive a restart. `answer backend` runs only the backend. With other arguments it is Caddy's
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
	"slices"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/demo/answer/backend"
)

const caddyfile = "demo/answer/Caddyfile"

func main() {
	folder, err := os.UserCacheDir()
	if err != nil {
		folder = os.TempDir()
	}
	defaults("ANSWER_DATA", filepath.Join(folder, "megaphone-answers"))
	defaults("ANSWER_MEGAPHONE", "127.0.0.1:3001")
	defaults("ANSWER_PORT", "8444")
	if len(os.Args) > 1 && os.Args[1] == "-journal" {
		_ = os.Setenv("ANSWER_BROKER", "journal") // cannot fail
		os.Args = slices.Delete(os.Args, 1, 2)
	}
	switch {
	case len(os.Args) == 1:
		if _, err := os.Stat(caddyfile); err != nil {
			log.Fatalf("the demo runs in the folder that has %s: %v", caddyfile, err)
		}
		go serveBackend()
		fmt.Printf("\nAsk at https://localhost:%s. The certificate is of a local authority, which the browser does not know: go on\n"+
			"all the same. Inside: http://%s/ui/\n\n", os.Getenv("ANSWER_PORT"), os.Getenv("ANSWER_MEGAPHONE"))
		os.Args = append(os.Args, "run", "--config", caddyfile)
		caddycmd.Main()
	case os.Args[1] == "backend":
		serveBackend()
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

// serveBackend runs the backend. It never returns.
func serveBackend() {
	defaults("ANSWER_BACKEND", "127.0.0.1:8082")
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", os.Getenv("ANSWER_BACKEND"))
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: backend.New("http://" + os.Getenv("ANSWER_MEGAPHONE")), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}

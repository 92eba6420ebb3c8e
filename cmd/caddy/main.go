// Command caddy is Caddy with its standard modules and Megaphone. It is what `go run ./cmd/caddy` and the
// tests use; a build with more modules is made with xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-megaphone/megaphone"
)

func main() {
	caddycmd.Main()
}

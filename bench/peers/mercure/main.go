// Command mercure is Caddy with the Mercure module. Megaphone is compared with it. It is a Go module of its own, so
// that nothing else depends on what Mercure needs.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/dunglas/mercure/caddy"
)

func main() {
	caddycmd.Main()
}

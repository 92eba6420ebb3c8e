// Command mercure is Caddy with the Mercure module, which Megaphone is compared with. It is a module of its own, so
// that nobody else needs what Mercure needs.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/dunglas/mercure/caddy"
)

func main() {
	caddycmd.Main()
}

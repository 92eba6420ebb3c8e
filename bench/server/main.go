// Command server is Caddy with Megaphone and two handlers that do the least that Caddy and net/http let a handler do:
// what Megaphone is compared with.
package main

import (
	_ "github.com/caddy-megaphone/megaphone"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}

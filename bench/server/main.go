// Command server is Caddy with Megaphone and two more handlers. These do as little as Caddy and net/http let a handler
// do. Megaphone is compared with them.
package main

import (
	_ "github.com/caddy-megaphone/megaphone"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}

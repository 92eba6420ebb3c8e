package admin

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// started is when the process started.
var started = time.Now()

// modulePath is the path of the module that has this package.
const modulePath = "github.com/caddy-megaphone/megaphone"

// version returns the version of this module in the binary.
var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return moduleVersion(info)
})

// moduleVersion finds the version of this module in what is known of a binary. If the module is replaced, as xcaddy does it for a
// working copy, that says so.
func moduleVersion(info *debug.BuildInfo) string {
	found := "unknown"
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path != modulePath {
			continue
		}
		if found = m.Version; m.Replace != nil {
			found += " => " + m.Replace.Path
			if m.Replace.Version != "" {
				found += "@" + m.Replace.Version
			}
		}
	}
	if found == "" {
		return "(devel)"
	}
	return found
}

// caddyVersion returns the version of Caddy in the binary.
var caddyVersion = sync.OnceValue(func() string {
	simple, _ := caddy.Version()
	return simple
})

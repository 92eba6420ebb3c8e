// Package diskmodule is the Broker of package disk as a Caddy module. Package disk itself knows no Caddy, and the root
// package knows it by its module only.
package diskmodule

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap/exp/zapslog"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/disk"
)

func init() { caddy.RegisterModule(new(DiskBroker)) }

// DiskBroker keeps channels and messages in the memory of this process, and in a journal on the disk. So they survive a
// restart of the process: an upgrade, a crash, and a loss of power if `durability` says so.
//
// After a restart, each channel lives for a whole `ttl`, and messages that were sent and not acknowledged come again.
type DiskBroker struct {
	// The folder of the journal. It has the secrets of all channels, so only Caddy's user should be able to read it. One
	// server at a time may use it. Placeholders such as `{env.POD_NAME}` are supported. Default: `megaphone` in Caddy's data
	// folder.
	Path string `json:"path,omitempty"`

	// What a write that got status 201 survives. `process`: the end of the process, however it ends, but not a loss of power,
	// which takes the last second or two. `disk`: a loss of power, too; each write then waits for the disk, about a
	// millisecond, together with others. A reload can change it. Default: `process`.
	Durability string `json:"durability,omitempty"`

	// How many bytes the journal may take; at least 192 MiB. Beyond, writes get status 503 until there is room. A reload can
	// change it. Default: no limit of its own; the journal takes about three times what `max_memory` allows.
	MaxDisk int64 `json:"max_disk,omitempty"`
}

// minMaxDisk is the smallest value of max_disk: three segments.
const minMaxDisk = 3 * disk.SegmentSize

// CaddyModule returns the Caddy module information.
func (*DiskBroker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.disk", New: func() caddy.Module { return new(DiskBroker) }}
}

// Provision implements [caddy.Provisioner].
func (b *DiskBroker) Provision(caddy.Context) error {
	if b.Path == "" {
		b.Path = filepath.Join(caddy.AppDataDir(), "megaphone")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(b.Path, true, true)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if b.Path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	return nil
}

// Validate implements [caddy.Validator].
func (b *DiskBroker) Validate() error {
	return errors.Join(checkDurability(b.Durability), checkMaxDisk(b.MaxDisk))
}

func checkDurability(value string) error {
	if _, ok := durabilities[value]; !ok {
		return fmt.Errorf("durability is %q: use process or disk", value)
	}
	return nil
}

func checkMaxDisk(value int64) error {
	if value != 0 && value < minMaxDisk {
		return tooSmall(value)
	}
	return nil
}

func tooSmall(value int64) error {
	return fmt.Errorf("max_disk is %s: a journal needs at least %s", humanize.IBytes(uint64(max(0, value))), humanize.IBytes(minMaxDisk))
}

var durabilities = map[string]disk.Durability{"": disk.Process, "process": disk.Process, "disk": disk.Disk}

func (b *DiskBroker) settings() disk.Settings {
	return disk.Settings{Durability: durabilities[b.Durability], MaxDisk: b.MaxDisk}
}

// BrokerKey implements [broker.Provider]. Other settings can change while the Broker is open.
func (b *DiskBroker) BrokerKey() string { return b.Path }

// OpenBroker implements [broker.Provider].
func (b *DiskBroker) OpenBroker() (broker.Broker, error) {
	return disk.Open(disk.Options{Path: b.Path, Settings: b.settings(), Logger: logger}), nil
}

// ConfigureBroker implements [broker.Configurer].
func (b *DiskBroker) ConfigureBroker(open broker.Broker) {
	if open, ok := open.(*disk.Broker); ok {
		open.Configure(b.settings())
	}
}

// logger returns Caddy's log as it is now: the Broker outlives the configuration that has opened it.
func logger() *slog.Logger {
	return slog.New(zapslog.NewHandler(caddy.Log().Core(), zapslog.WithName("megaphone.brokers.disk")))
}

// UnmarshalCaddyfile sets up the broker from Caddyfile tokens. Syntax, in the global option:
//
//	megaphone {
//		broker disk {
//			path       <folder>
//			durability process|disk
//			max_disk   <size>
//		}
//	}
func (b *DiskBroker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the broker's name
	if d.NextArg() {
		return d.Errf("the broker disk takes no argument, but has %q: write its settings in a block, for example path %s", d.Val(), d.Val())
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is already specified: keep one of the two", name)
		}
		seen[name] = true
		example, ok := examples[name]
		if !ok {
			return d.Errf("the broker disk has no setting %q: use one of durability, max_disk, path", name)
		}
		var value string
		if !d.Args(&value) || d.NextArg() || value == "" {
			return d.Errf("%s takes one value: write for example %s %s", name, name, example)
		}
		if err := b.set(name, value); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// examples are values of the settings, for errors.
var examples = map[string]string{"path": "/var/lib/caddy/megaphone", "durability": "disk", "max_disk": "4GiB"}

// set sets a setting from its text.
func (b *DiskBroker) set(name, value string) error {
	switch name {
	case "path":
		b.Path = value
	case "durability":
		b.Durability = value
		return checkDurability(value)
	case "max_disk":
		n, err := humanize.ParseBytes(value)
		if err != nil || n > 1<<62 {
			return fmt.Errorf("max_disk is %q, which is not a valid size: write for example max_disk 4GiB", value)
		}
		if b.MaxDisk = int64(n); n < minMaxDisk {
			return tooSmall(b.MaxDisk)
		}
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*DiskBroker)(nil)
	_ caddy.Validator       = (*DiskBroker)(nil)
	_ broker.Provider       = (*DiskBroker)(nil)
	_ broker.Configurer     = (*DiskBroker)(nil)
	_ caddyfile.Unmarshaler = (*DiskBroker)(nil)
)

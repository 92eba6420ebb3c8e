// Package setting parses the settings of Caddyfiles, and words the errors about them. The modules of the root package and
// of Brokers use it, so that all their settings read alike.
package setting

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// MaxDuration is the longest duration that a setting may have. Longer ones have no use, and a time that is several of them
// from now has no representation. MaxDurationText is its text in errors.
const (
	MaxDuration     = 3650 * 24 * time.Hour
	MaxDurationText = "3650d"
)

// A Value parses a setting that has one value.
type Value struct {
	Set     func(value string) error // checks and keeps the value
	Example string                   // of a value, for errors
}

// New returns a setting with this function and this example.
func New(set func(value string) error, example string) Value { return Value{set, example} }

// Parse reads the one value of the setting. It is on the setting's line, and no block follows.
func (v Value) Parse(d *caddyfile.Dispenser, name string) error {
	switch args := d.RemainingArgs(); len(args) {
	case 1:
		if err := v.Set(args[0]); err != nil {
			return d.Errf("%s: %v", name, err)
		}
	case 0:
		return d.Errf("%s takes one value, but has none: write for example %s %s", name, name, v.Example)
	default:
		return d.Errf("%s takes one value, but has %d: write for example %s %s", name, len(args), name, v.Example)
	}
	return NoBlock(d, name)
}

// Duration returns a setting that is a duration above zero.
func Duration(field *caddy.Duration, example string) Value {
	return New(func(value string) error {
		d, err := caddy.ParseDuration(value)
		if err != nil || d <= 0 || d > MaxDuration {
			return fmt.Errorf("%q is not a valid duration: "+
				"use a duration above zero and up to %s, for example 500ms, 10s, 1m or 1d", value, MaxDurationText)
		}
		*field = caddy.Duration(d)
		return nil
	}, example)
}

// Count returns a setting that is a whole number above zero.
func Count(field *int, example string) Value {
	return New(func(value string) error {
		n, err := strconv.Atoi(value)
		if errors.Is(err, strconv.ErrRange) && n > 0 {
			return fmt.Errorf("%q is too large: use at most %d", value, math.MaxInt)
		}
		if err != nil || n <= 0 {
			return fmt.Errorf("%q is not a valid number: use a whole number above zero, for example %s, or leave it out",
				value, example)
		}
		*field = n
		return nil
	}, example)
}

// Size returns a setting that is a number of bytes above zero. The limit is the largest that is allowed, and limitText
// its text in errors.
func Size(field *int64, limit uint64, limitText, example string) Value {
	return New(func(value string) error {
		n, err := humanize.ParseBytes(value)
		if err != nil || n == 0 || n > limit {
			return fmt.Errorf("%q is not a valid size: use a size above zero and up to %s, for example 500KB, 2MB or 1GiB",
				value, limitText)
		}
		*field = int64(n) //nolint:gosec // at most the limit
		return nil
	}, example)
}

// Text returns a setting that is a text.
func Text(field *string, example string) Value {
	return New(func(value string) error {
		if value == "" {
			return fmt.Errorf("it is empty: write for example %s, or leave it out", example)
		}
		*field = value
		return nil
	}, example)
}

// Default sets a field that is zero to a value.
func Default[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}

// ErrRepeated is the error for a setting or option that may appear only once.
func ErrRepeated(d *caddyfile.Dispenser, name string) error {
	return d.Errf("%s is already specified: remove one of its lines", name)
}

// ErrHasValue is the error for a value after a name that takes none, because the name alone turns it on.
func ErrHasValue(name, value string) error {
	return fmt.Errorf("%s takes no value: write it without %q to turn it on, or leave it out", name, value)
}

// NoValue checks that neither a value nor a block follows a name.
func NoValue(d *caddyfile.Dispenser, name string) error {
	if d.NextArg() {
		return d.WrapErr(ErrHasValue(name, d.Val()))
	}
	return NoBlock(d, name)
}

// NoBlock checks that no block follows.
func NoBlock(d *caddyfile.Dispenser, name string) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return d.Errf("%s takes no block: remove the braces after it, and everything between them", name)
	}
	return nil
}

// Names lists the keys of a map in order.
func Names[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

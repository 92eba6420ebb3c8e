package redismodule

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/setting"
)

// UnmarshalCaddyfile sets up the broker from Caddyfile tokens. Every setting is optional:
//
//	megaphone {
//		broker redis [<address...>] {
//			address           <address...>
//			sentinel          <primary>
//			sentinel_username <name>
//			sentinel_password <password>
//			cluster
//			username          <name>
//			password          <password>
//			password_file     <file>
//			database          <number>
//			tls {
//				ca          <file>
//				cert        <file>
//				key         <file>
//				server_name <name>
//				insecure
//			}
//			key_prefix        <prefix>
//			keys              <secret>
//			durability        none | replica <replicas> | aof
//			dial_timeout      <duration>
//			timeout           <duration>
//		}
//	}
func (r *RedisBroker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the broker's name
	r.Addresses = d.RemainingArgs()
	settings := r.settings()
	seen := map[string]bool{"address": len(r.Addresses) > 0}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		set, ok := settings[name]
		if !ok {
			return d.Errf("unrecognized setting %q of the broker redis: use one of %s", name, setting.Names(settings))
		}
		if seen[name] {
			return setting.ErrRepeated(d, name)
		}
		seen[name] = true
		var err error
		switch name {
		case "address":
			if r.Addresses = d.RemainingArgs(); len(r.Addresses) == 0 {
				return d.Errf("address takes one or more addresses: write for example address %s", redis.DefaultAddress)
			}
			err = setting.NoBlock(d, name)
		case "cluster":
			r.Cluster = true
			err = setting.NoValue(d, name)
		case "durability":
			r.Durability = strings.Join(d.RemainingArgs(), " ")
			if _, err = redis.ParseDurability(r.Durability); err == nil {
				err = setting.NoBlock(d, name)
			} else {
				err = d.Errf("durability: %v", err)
			}
		case "tls":
			err = r.unmarshalTLS(d)
		default:
			err = set.Parse(d, name)
		}
		if err != nil {
			return err
		}
	}
	if err := r.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// check finds mistakes of settings that have no placeholders.
func (r *RedisBroker) check() error {
	text, err := json.Marshal(r) //nolint:gosec // stays in this function
	if err != nil || strings.Contains(strings.Trim(string(text), "{}"), `{`) {
		return err // loading the configuration replaces placeholders, and checks then
	}
	c := *r
	if c.PasswordFile != "" && c.Password == "" { // the file is read when the configuration is loaded
		c.Password, c.PasswordFile = c.PasswordFile, ""
	}
	o, err := c.redisOptions()
	if err != nil {
		return err
	}
	return o.Check()
}

// settings returns the settings of one value by name. Those without a function have another form.
func (r *RedisBroker) settings() map[string]setting.Value {
	return map[string]setting.Value{
		"address":           {},
		"sentinel":          setting.Text(&r.Sentinel, "mymaster"),
		"sentinel_username": setting.Text(&r.SentinelUsername, "default"),
		"sentinel_password": setting.Text(&r.SentinelPassword, "{env.SENTINEL_PASSWORD}"),
		"cluster":           {},
		"username":          setting.Text(&r.Username, "megaphone"),
		"password":          setting.Text(&r.Password, "{env.REDIS_PASSWORD}"),
		"password_file":     setting.Text(&r.PasswordFile, "/run/secrets/redis"),
		"database":          setting.New(r.parseDatabase, "1"),
		"tls":               {},
		"key_prefix":        setting.Text(&r.KeyPrefix, redis.DefaultKeyPrefix),
		"keys":              setting.Text(&r.Keys, "{env.MEGAPHONE_KEYS}"),
		"durability":        {},
		"dial_timeout":      setting.Duration(&r.DialTimeout, "5s"),
		"timeout":           setting.Duration(&r.Timeout, "3s"),
	}
}

func (r *RedisBroker) parseDatabase(value string) (err error) {
	if r.Database, err = strconv.Atoi(value); err != nil || r.Database < 0 {
		return fmt.Errorf("%q is not the number of a database: use 0 or more", value)
	}
	return nil
}

// unmarshalTLS sets up encryption from the setting tls.
func (r *RedisBroker) unmarshalTLS(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("tls takes no value: leave out %q, and write the settings in a block", d.Val())
	}
	t := new(RedisTLS)
	r.TLS = t
	settings := map[string]setting.Value{
		"ca": setting.Text(&t.CA, "/etc/redis/ca.pem"), "cert": setting.Text(&t.Cert, "/etc/megaphone/redis.pem"),
		"key": setting.Text(&t.Key, "/etc/megaphone/redis.key"), "server_name": setting.Text(&t.ServerName, "redis.example.com"), "insecure": {},
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		set, ok := settings[name]
		if !ok {
			return d.Errf("unrecognized setting %q of tls: use one of %s", name, setting.Names(settings))
		}
		if seen[name] {
			return setting.ErrRepeated(d, name)
		}
		seen[name] = true
		if name == "insecure" {
			t.Insecure = true
			if err := setting.NoValue(d, name); err != nil {
				return err
			}
		} else if err := set.Parse(d, name); err != nil {
			return err
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return d.Err("cert and key belong together: name both files, or none")
	}
	return nil
}

package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// settings says what a work needs from a server's configuration.
type settings struct {
	h2c     bool   // HTTP/2 without TLS
	topics  bool   // topics, where they need a setting
	profile bool   // with Caddy's admin endpoint, which serves profiles
	admin   string // the address of the admin endpoint
	dir     string // a folder for what this server writes, and nobody else
	redis   string // the socket of the Redis that the servers share
}

// A channel says what one consumer reads and how to write to it.
type channel struct {
	address string // its name in a request for many channels
	path    string // the path that a consumer reads
	post    func(body string) load.Request
}

// A peer is a server to measure.
type peer struct {
	name   string
	about  string
	build  func(ctx context.Context, dir string) (binary string, err error)
	binary string
	args   func(config string) []string
	config func(address string, s settings) string

	// channels makes n channels. It is nil if the server has none.
	channels func(address string, n int) ([]channel, error)
	// batch writes a body to many channels.
	batch func(cs []channel, body string) load.Request
	// fan makes n readers of what is published once.
	fan func(address string, n int) (fan, error)
	// floor marks a server that is not a broker but shows the least that something costs.
	floor bool
	// shared marks servers that share a Redis, which is what is measured.
	shared bool
	// ingest and create mark what only Megaphone can do.
	ingest, create bool
	// headers maps the name of a transport to the request headers that ask for it when a channel is read.
	headers map[string][]string
}

// errMissing marks a peer that is not installed.
var errMissing = errors.New("not installed")

const tags = "nobadger,nomysql,nopgx" // the tags that xcaddy sets

func goBuild(from string) func(ctx context.Context, dir string) (string, error) {
	return func(ctx context.Context, dir string) (string, error) {
		binary := filepath.Join(dir, filepath.Base(from))
		build := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", binary, ".") //nolint:gosec // our own sources
		build.Dir, build.Stderr = from, os.Stderr
		if err := onCore(bothCores, build.Start); err != nil {
			return "", err
		}
		return binary, build.Wait()
	}
}

func runCaddy(config string) []string {
	return []string{"run", "--adapter", "caddyfile", "--config", config}
}

// caddyfile returns a configuration with one private site.
func caddyfile(address string, s settings, global, site string) string {
	_, port, _ := strings.Cut(address, ":")
	admin, protocols := "admin off", "h1 h2"
	if s.profile {
		admin = "admin " + s.admin
	}
	if s.h2c {
		protocols = "h1 h2 h2c"
	}
	return fmt.Sprintf(`{
	%s
	persist_config off
	auto_https off
	servers {
		protocols %s
	}
	%s
}
http://:%s {
	bind 127.0.0.1
	%s
}
`, admin, protocols, global, port, site)
}

// megaphoneSettings makes channels and reads outlive any work.
const megaphoneSettings = "megaphone {\n\t\tttl 10m\n\t\tread_duration 10m\n\t}"

func upgrade() []string {
	return []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
}

const acceptSSE = "Accept: text/event-stream"

// peers returns all servers to measure. Those that the others are compared with come first.
func peers() []*peer {
	return slices.Concat(floors(), ours(), brokers(), []*peer{overRedis(), bareOverRedis()})
}

// floors returns the servers that show the least that something costs under Caddy.
func floors() []*peer {
	return []*peer{
		{
			name: "respond", about: "Caddy's respond handler, status 201: the least that one POST costs under Caddy",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string {
				return caddyfile(address, s, "", "respond 201")
			},
			floor: true,
		},
		{
			name: "respond-logged", about: "the same with an access log in a file",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string {
				return caddyfile(address, s, "", accessLog(s)+"respond 201")
			},
			floor: true,
		},
		{
			name: "wait", about: "a Caddy handler that sends its header and waits: the least that an idle reader costs under net/http and Caddy",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string { return caddyfile(address, s, "", "bench_wait") },
			channels: func(_ string, n int) ([]channel, error) {
				cs := make([]channel, n)
				for i := range cs {
					cs[i].path = "/"
				}
				return cs, nil
			},
			headers: map[string][]string{"http": nil, "h2": nil}, floor: true,
		},
		{
			name: "relay", about: "a Caddy handler that writes the body of a POST right to a reader's connection: the least that one delivery costs under Caddy",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string { return caddyfile(address, s, "", "bench_relay") },
			channels: func(_ string, n int) ([]channel, error) {
				cs := make([]channel, n)
				for i := range cs {
					path := fmt.Sprintf("/%d", i)
					cs[i] = channel{path: path, post: func(body string) load.Request { return load.Post(path, body, jsonType) }}
				}
				return cs, nil
			},
			headers: map[string][]string{"http": nil}, floor: true,
		},
		{
			name: "bare", about: "a loop around epoll and write, with neither Caddy nor goroutines: the least that one delivery costs any server",
			build: goBuild("bare"), args: func(config string) []string { return []string{config} },
			config:   func(address string, _ settings) string { return address },
			channels: bareChannels, fan: bareFan,
			headers: map[string][]string{"http": nil}, floor: true,
		},
	}
}

// ours returns Megaphone in several configurations.
func ours() []*peer {
	return []*peer{
		{
			name: "megaphone", about: "this module",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string {
				site := "megaphone"
				if s.topics {
					site = "megaphone create write read topics publish"
				}
				return caddyfile(address, s, megaphoneSettings, site)
			},
			channels: createChannels, batch: writeBatch, fan: megaphoneFan, ingest: true, create: true,
			headers: map[string][]string{"http": nil, "h2": nil, "sse": {acceptSSE}, "websocket": upgrade()},
		},
		{
			name: "observed", about: "this module with an access log, so that net/http keeps all connections",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string {
				return caddyfile(address, s, megaphoneSettings, "log {\n\t\toutput discard\n\t}\n\tmegaphone")
			},
			channels: createChannels, headers: map[string][]string{"http": nil},
		},
		{
			name: "logged", about: "this module with an access log in a file",
			build: goBuild("server"), args: runCaddy,
			config: func(address string, s settings) string {
				return caddyfile(address, s, megaphoneSettings, accessLog(s)+"megaphone")
			},
			channels: createChannels, headers: map[string][]string{"http": nil},
		},
		{
			name: "disk", about: "this module with the broker disk, whose writes survive the process",
			build: goBuild("server"), args: runCaddy,
			config:   journaled("process"),
			channels: createChannels, batch: writeBatch, ingest: true, create: true, headers: map[string][]string{"http": nil},
		},
		{
			name: "disk-synced", about: "this module with the broker disk, whose writes survive a loss of power",
			build: goBuild("server"), args: runCaddy,
			config:   journaled("disk"),
			channels: createChannels, batch: writeBatch, ingest: true, create: true, headers: map[string][]string{"http": nil},
		},
	}
}

// journaled returns a configuration with the broker disk.
func journaled(durability string) func(address string, s settings) string {
	return func(address string, s settings) string {
		global := "megaphone {\n\t\tttl 10m\n\t\tread_duration 10m\n\t\tbroker disk {\n\t\t\tpath " + filepath.Join(s.dir, "journal") +
			"\n\t\t\tdurability " + durability + "\n\t\t}\n\t}"
		return caddyfile(address, s, global, "megaphone")
	}
}

// accessLog returns the directive log with a file that does not grow without limit.
func accessLog(s settings) string {
	return "log {\n\t\toutput file " + filepath.Join(s.dir, "access.log") + " {\n\t\t\troll_size 100MiB\n\t\t\troll_keep 1\n" +
		"\t\t\troll_uncompressed\n\t\t}\n\t}\n\t"
}

// brokers returns the brokers of others.
func brokers() []*peer {
	return []*peer{
		{
			name: "mercure", about: "Mercure, in Caddy, with its transport in memory",
			build: goBuild("peers/mercure"), args: runCaddy,
			config: func(address string, s settings) string {
				return caddyfile(address, s, "", "mercure {\n\t\ttransport local\n\t\tanonymous\n\t\tpublisher_jwt "+mercureKey+"\n\t}")
			},
			channels: mercureTopics, batch: mercureBatch, fan: mercureFan,
			headers: map[string][]string{"http": {acceptSSE}, "sse": {acceptSSE}},
		},
		{
			name: "nchan", about: "Nchan in nginx, one worker, in memory",
			build: findNginx, args: func(config string) []string { return []string{"-c", config, "-p", filepath.Dir(config)} },
			config: nginxConfig, channels: nchanChannels, batch: nchanBatch, fan: nchanFan,
			headers: map[string][]string{"http": {"TE: chunked"}, "sse": {acceptSSE}, "websocket": upgrade()},
		},
	}
}

const jsonType = "Content-Type: application/json"

// createChannels creates channels in Megaphone.
func createChannels(address string, n int) ([]channel, error) { return createWith(address, n, "") }

// createWith creates channels by requests with a body.
func createWith(address string, n int, body string) ([]channel, error) {
	conn, err := load.Dial(address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	cs := make([]channel, n)
	create := load.Post("/create", body, jsonType)
	for i := range cs {
		status, body, err := conn.Do(create)
		for deadline := time.Now().Add(20 * time.Second); err == nil && status == http.StatusServiceUnavailable && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond) // it reads its journal
			status, body, err = conn.Do(create)
		}
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		if err != nil {
			return nil, err
		}
		var created struct{ ProducerAddress, ConsumerAddress string }
		if err := json.Unmarshal(body, &created); err != nil {
			return nil, fmt.Errorf("%w: %s", err, body)
		}
		write := "/write/" + created.ProducerAddress + "/bench"
		cs[i] = channel{
			address: created.ProducerAddress,
			path:    "/read/" + created.ConsumerAddress,
			post:    func(body string) load.Request { return load.Post(write, body, jsonType) },
		}
	}
	return cs, nil
}

func writeBatch(cs []channel, body string) load.Request {
	addresses := make([]string, len(cs))
	for i, c := range cs {
		addresses[i] = `"` + c.address + `"`
	}
	return load.Post("/write-batch", `{"channels":[`+strings.Join(addresses, ",")+`],"messages":[{"streamId":"bench","body":`+body+`}]}`, jsonType)
}

const mercureKey = "!ChangeThisMercureHubJWTSecretKey!"

// mercureToken is a token that allows publishing to all topics (RFC 7519, HMAC with SHA-256).
var mercureToken = func() string {
	text := base64.RawURLEncoding
	signed := text.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		text.EncodeToString([]byte(`{"mercure":{"publish":["*"]}}`))
	mac := hmac.New(sha256.New, []byte(mercureKey))
	mac.Write([]byte(signed))
	return signed + "." + text.EncodeToString(mac.Sum(nil))
}()

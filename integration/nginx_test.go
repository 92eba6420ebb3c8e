package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// startNginx starts nginx with a server at an address. The arguments http and server are what stands in these blocks. It
// skips the test if nginx is not installed.
func startNginx(t *testing.T, address, http, server string) {
	t.Helper()
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		if nginx, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			t.Skip("nginx is not installed")
		}
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	%[2]s
	server {
		listen %[4]s;
		%[3]s
	}
}`, dir, http, server, address)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", path)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			t.Logf("nginx: %s%s", log.String(), text)
		}
	})
	awaitListener(t, address)
}

func TestRecipeNginx(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "nginx")
	r.start(0)
	address := r.ports.Replace("127.0.0.1:8000")
	startNginx(t, address, r.block("nginx http", 0), r.block("nginx server", 0))
	r.session(`\{"status":"OK"\}`, "data: "+hello)

	// On every transport, the header arrives before there is a message, and each message arrives at once.
	read := "http://" + address + "/read/"
	for _, accept := range []string{events, "application/x-ndjson"} {
		channel := r.backend.channel(accept)
		response := r.get(http.DefaultClient, read+channel.ConsumerAddress+"?after=", "Accept", accept)
		if contentType := response.Header.Get("Content-Type"); contentType != accept {
			t.Fatalf("%s: %s %s", accept, response.Status, contentType)
		}
		stream := bufio.NewReader(response.Body)
		for i := range 3 {
			r.backend.write(channel, fmt.Sprint(i))
			for want := fmt.Sprintf(`"body":%d}`, i); !strings.HasSuffix(r.line(stream, ""), want); {
			}
		}
	}
	channel := r.backend.channel("websocket")
	conn, _, err := websocket.Dial(t.Context(), read+channel.ConsumerAddress+"?after=", &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {"http://" + address}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	r.backend.write(channel, "1")
	if _, text, err := conn.Read(t.Context()); err != nil || !strings.HasSuffix(string(text), `"body":1}`) {
		t.Errorf("%s %v", text, err)
	}
}

// wantWrites sends a write whose stream id has a slash to each path of a proxy. A path that the map says true for must
// reach the server as it is. The others must be those where the proxy makes a slash of %2F, so that the write is refused.
func wantWrites(t *testing.T, address string, channel channel, intact map[string]bool) {
	t.Helper()
	for path, intact := range intact {
		url := "http://" + address + path + "/write/" + channel.ProducerAddress + "/a%2Fb"
		response, err := http.Post(url, "application/json", strings.NewReader("1"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		refused := response.StatusCode == http.StatusNotFound && strings.Contains(string(text), "one path segment")
		if intact != (response.StatusCode == http.StatusCreated) || intact == refused {
			t.Errorf("%s: %s %s", path, response.Status, text)
		}
	}
}

// TestSlashesInStreamIDsBehindNginx tries what docs/troubleshooting.md says of nginx and %2F.
func TestSlashesInStreamIDsBehindNginx(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	port := testserver.FreePort(t)
	address := fmt.Sprint("127.0.0.1:", testserver.FreePort(t))
	upstream := fmt.Sprint("http://127.0.0.1:", port)
	startNginx(t, address, "", strings.ReplaceAll(`
		location /write/ { proxy_pass UPSTREAM; }
		location /a-slash/ { proxy_pass UPSTREAM/; }
		location /a-rewrite/ { rewrite ^/a-rewrite(/.*)$ $1 break; proxy_pass UPSTREAM; }
		location ~ ^/a-capture(/.*)$ { proxy_pass UPSTREAM$1; }
		location /a-request-uri/ {
			if ($request_uri ~ ^/a-request-uri(/.*)$) { proxy_pass UPSTREAM$1; }
		}`, "UPSTREAM", upstream))
	s.Start("megaphone", tcpSite(port, "megaphone"))
	channel := loadClient(t, port, false).create()
	wantWrites(t, address, channel, map[string]bool{
		"": true, "/a-slash": false, "/a-rewrite": false, "/a-capture": false, "/a-request-uri": true,
	})
}

// TestSlashesInStreamIDsBehindCaddy tries what docs/troubleshooting.md says of Caddy and %2F.
func TestSlashesInStreamIDsBehindCaddy(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	port, front := testserver.FreePort(t), testserver.FreePort(t)
	upstream := fmt.Sprint("127.0.0.1:", port)
	s.Start("megaphone", tcpSite(port, "megaphone")+tcpSite(front, strings.ReplaceAll(`
		handle_path /handle-path/* {
			reverse_proxy UPSTREAM
		}
		handle /strip/* {
			uri strip_prefix /strip
			reverse_proxy UPSTREAM
		}
		@capture path_regexp re ^/capture/(.*)$
		handle @capture {
			rewrite * /{re.1}
			reverse_proxy UPSTREAM
		}
		handle {
			reverse_proxy UPSTREAM
		}`, "UPSTREAM", upstream)))
	channel := loadClient(t, port, false).create()
	wantWrites(t, fmt.Sprint("127.0.0.1:", front), channel, map[string]bool{
		"": true, "/handle-path": true, "/strip": true, "/capture": false,
	})
}

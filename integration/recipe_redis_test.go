package integration

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// startRedis starts a redis-server, and returns its address.
func startRedis(t *testing.T) (address string) {
	t.Helper()
	if os.Getenv("MEGAPHONE_REDIS") == "" {
		t.Skip("needs redis-server: MEGAPHONE_REDIS=1 go test -run Redis ./integration")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed: apt-get install redis-server")
	}
	port := fmt.Sprint(testserver.FreePort(t))
	server := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	address = net.JoinHostPort("127.0.0.1", port)
	awaitListener(t, address)
	return address
}

func TestRecipeSeveralNodesWithRedis(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	r := openRecipe(t, "several-nodes")
	r.text = strings.ReplaceAll(r.text, "localhost:6379", redis)
	var servers []*testserver.Server
	env := r.env
	for _, port := range []string{":3001", ":3002"} {
		r.env = append(env, "PORT="+strings.TrimPrefix(r.ports.Replace(port), ":"))
		servers = append(servers, r.start(0))
	}
	r.env = env
	front := r.start(1)
	body := func(value string) string { return `\{[^\n]*"body":` + value + `\}\n` }
	r.session(`\{"failures":\[\]\}`, body("1"), body("2"), body("3"), body("4"), body(`"batch"`))

	// A stream goes on at the other server when its own is killed, whichever that is.
	client, channel := r.client(front), r.backend.channel("alice")
	url := site + "/read/" + channel.ConsumerAddress
	stream := bufio.NewReader(r.get(client, url, "Accept", events).Body)
	r.line(stream, "retry: ")
	r.backend.write(channel, "1")
	id := r.line(stream, "id: ")
	servers[0].Signal(syscall.SIGKILL)
	<-servers[0].Done()
	r.backend.write(channel, "2") // the front finds a server that lives
	var response *bufio.Reader
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		reply := r.get(client, url, "Accept", events, "Last-Event-ID", id)
		if reply.StatusCode == 200 {
			if resume := reply.Header.Get("Megaphone-Resume"); resume != "complete" {
				t.Errorf("the stream resumes as %q", resume)
			}
			response = bufio.NewReader(reply.Body)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the stream does not resume: %s", reply.Status)
		}
	}
	if data := r.line(response, "data: "); !strings.HasSuffix(data, `"body":2}`) {
		t.Errorf("after the first message comes %s", data)
	}
	r.wantStatus(404, client, site+"/read/main.AAAAAAAAAAAAAAAAAAAAAA?poll=0")
}

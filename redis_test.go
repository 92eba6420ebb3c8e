package megaphone_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// startRedis starts a redis-server, and returns the path of its socket.
func startRedis(t *testing.T) (socket string) {
	t.Helper()
	socket, _ = startRedisProcess(t)
	return socket
}

func startRedisProcess(t *testing.T) (socket string, server *os.Process) {
	t.Helper()
	if os.Getenv("MEGAPHONE_REDIS") == "" {
		t.Skip("needs redis-server: MEGAPHONE_REDIS=1 go test -run Redis .")
	}
	dir := t.TempDir()
	socket = filepath.Join(dir, "redis.sock")
	process := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err := process.Start(); err != nil {
		t.Skipf("redis-server does not start: %v", err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	for range 1000 {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			return socket, process.Process
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("redis-server does not start")
	return "", nil
}

func TestRedisReportsWaitingMessages(t *testing.T) {
	waitingMessagesAreReported(t, fmt.Sprintf("broker redis %s\n", startRedis(t)))
}

func TestRedisKeepsTheChannels(t *testing.T) {
	socket := startRedis(t)
	global := fmt.Sprintf("megaphone {\nbroker redis %s\n}", socket)
	s := serve(t, global, "megaphone create write read exists manage health")
	c := s.create()
	read := s.read(c)
	for range 20 { // later writes may be direct ones
		s.write(c, `"\u00e9 & <b>"`)
		read.wants(`"\u00e9 & <b>"`)
	}
	if r := s.get("/health"); r.StatusCode != http.StatusOK {
		t.Errorf("health: %d %s", r.StatusCode, r.body)
	}
	if metrics := s.metrics(); len(metrics) == 0 {
		t.Error("there are no metrics")
	}

	// A reload with the same settings of the broker keeps its connections, and so the read.
	s.reload(strings.Replace(global, "megaphone {", "megaphone {\nttl 2m", 1), "megaphone")
	s.write(c, "1")
	read.wants("1")

	// Other settings open another Broker. Reads end, and channels stay.
	other := s.create()
	s.write(other, "2")
	s.reload(strings.Replace(global, socket, socket+" {\ntimeout 4s\n}", 1), "megaphone")
	read.ends()
	s.write(other, "3")
	s.reload("megaphone {\nbroker memory\n}", "megaphone")
	s.tryWrite(other, "1").wantError(t, 404, "NOT_FOUND")
	s.reload(global, "megaphone")
	read = s.read(other)
	read.wants("2")
	read.wants("3")
}

// TestDirectWritesWaitForRedis: they are direct all the same, and end as others do.
func TestDirectWritesWaitForRedis(t *testing.T) {
	socket := startRedis(t)
	s := serve(t, fmt.Sprintf("megaphone {\nbuffer 40\nhold 20ms\nbroker redis %s\n}", socket), "megaphone create write read manage")
	c := s.create()
	client := s.direct(c)
	var pipelined strings.Builder
	for _, body := range numbered(enough, 41) { // one too many
		pipelined.WriteString(writeRequest(c.ProducerAddress, body))
	}
	client.send(pipelined.String())
	for range 40 - enough {
		client.wants(http.StatusCreated)
	}
	client.wants(http.StatusServiceUnavailable)
	read := s.read(c)
	read.wants(numbered(0, 40)...)
	client.writeAll(c, numbered(41, 60)...)
	read.wants(numbered(41, 60)...)
	if !s.isDirect() {
		t.Error("the connection has gone back to net/http")
	}
	s.deleteChannel(c)
	client.send(writeRequest(c.ProducerAddress, "1"))
	client.wants(http.StatusNotFound)
}

// TestTheServerStopsWhileDirectWritesWaitInRedis: for room, or for a Redis that stands still. The server waits for Redis no longer
// than the timeout, and what waited for room is withdrawn.
func TestTheServerStopsWhileDirectWritesWaitInRedis(t *testing.T) {
	for _, stands := range []bool{false, true} {
		t.Run(fmt.Sprint("stands still: ", stands), func(t *testing.T) {
			socket, process := startRedisProcess(t)
			global := fmt.Sprintf("megaphone {\nbuffer %d\nhold 1m\nbroker redis %s {\ntimeout 500ms\n}\n}", enough, socket)
			s := serve(t, global, "megaphone create write read manage")
			var w heldWrite
			if stands {
				c := s.create()
				w = heldWrite{s.direct(c), c}
				if err := process.Signal(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = process.Signal(syscall.SIGCONT) }()
				w.send(writeRequest(c.ProducerAddress, `"waits"`))
			} else {
				w = s.heldDirectly("")
				s.eventually(func() bool { return s.metrics()["caddy_megaphone_held_producers{}"] == 1 })
			}
			start := time.Now()
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("the server stops after %v", took)
			}
			if reply := w.rest(); strings.Contains(reply, "201 Created") || !stands && !strings.Contains(reply, "503 Service Unavailable") {
				t.Errorf("the write gets %q", reply)
			}
			if !stands {
				s.reload(global, "megaphone create write read manage")
				read := s.read(w.to)
				read.wants(numbered(0, enough)...)
				s.write(w.to, `"after"`)
				read.wants(`"after"`)
			}
		})
	}
}

// TestADrainLeavesDirectWritesThatWaitInRedis: the channel stays, so whoever reads it next makes room.
func TestADrainLeavesDirectWritesThatWaitInRedis(t *testing.T) {
	s := serveAdmin(t, fmt.Sprintf("megaphone {\nbuffer %d\nhold 1m\nbroker redis %s\n}", enough, startRedis(t)), "megaphone")
	w := s.heldDirectly(closing)
	s.eventually(func() bool { return s.metrics()["caddy_megaphone_held_producers{}"] == 1 })
	var state struct{ Draining bool }
	if s.call(http.MethodPost, "drain", `{"over":"0s"}`, &state); !state.Draining {
		t.Fatal("the server does not drain")
	}
	read := s.read(w.to)
	read.wants(append(numbered(0, enough), `"held"`)...)
	if reply := w.rest(); !strings.Contains(reply, "201 Created") {
		t.Errorf("the write gets %q", reply)
	}
}

func TestRedisThatCannotBeReachedChangesNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	socket := filepath.Join(t.TempDir(), "none")
	err := s.load("megaphone {\nbroker redis "+socket+"\n}", "megaphone")
	if err == nil || !strings.Contains(err.Error(), "broker: redis: cannot connect to "+socket) {
		t.Errorf("error %v", err)
	}
	s.write(c, "1")
	s.read(c).wants("1")
}

// TestRedisThatStopsIsNotHealthy: health turns bad while Redis does not answer, and is well again by itself. Metrics, the admin
// API and the log say so.
func TestRedisThatStopsIsNotHealthy(t *testing.T) {
	socket, process := startRedisProcess(t)
	s := serveAdmin(t, fmt.Sprintf("megaphone {\nbroker redis %s {\ntimeout 500ms\n}\n}", socket),
		"handle_path /all/* {\nmegaphone manage ui\n}\nmegaphone create write read health")
	c := s.create()
	read := s.read(c)
	s.write(c, "1")
	read.wants("1")
	health := func(status int, body string) func() bool {
		return func() bool {
			r := s.get("/health")
			return r.StatusCode == status && r.body == body
		}
	}
	const good, bad = `{"status":"OK"}`, `{"status":"STORAGE_UNAVAILABLE"}`
	if !health(200, good)() {
		t.Error("health is bad at the start")
	}
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "health is bad", health(503, bad))
	var stats struct {
		Store struct {
			Up       bool
			Error    string
			Failures int
			Nodes    []struct{ Self bool }
		}
	}
	s.call(http.MethodGet, "stats", "", &stats)
	if store := stats.Store; store.Up || store.Error == "" || store.Failures == 0 || len(store.Nodes) != 1 || !store.Nodes[0].Self {
		t.Errorf("the admin API says of the store %+v", store)
	}
	var reply struct{ Status string }
	if status := s.call(http.MethodGet, "health", "", &reply); status != 503 || reply.Status != "STORAGE_UNAVAILABLE" {
		t.Errorf("health of the admin API is %d %s", status, reply.Status)
	}
	// The inspector still answers, and says what is wrong.
	if state, body := s.uiState(""); state.Health != "STORAGE_UNAVAILABLE" || state.Server.List != nil || len(state.Server.Nodes) != 1 || !state.Server.Nodes[0].Self {
		t.Errorf("the inspector says %s", body)
	}
	if up, ok := s.metrics()["caddy_megaphone_storage_up{}"]; up != 0 || !ok {
		t.Errorf("storage_up is %v, there: %v", up, ok)
	}
	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "health is good", health(200, good))
	eventually(t, "a write succeeds", func() bool { return s.tryWrite(c, "2").StatusCode == 201 })
	read.wants("2")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestTopicsInRedis: a site with them loads, and they outlive the server's Broker.
func TestTopicsInRedis(t *testing.T) {
	global := fmt.Sprintf("megaphone {\nbuffer 2\ntopic_keep 1MB\nbroker redis %s\n}", startRedis(t))
	s := serve(t, global, topicSite)
	a := s.createWith(`{"topics":["news"]}`)
	if got := s.publish("news", "1"); got != `{"members":1,"accepted":1,"full":0}` {
		t.Errorf("publish: %s", got)
	}
	s.publish("news", "2")
	if got := s.publish("news", "3"); got != `{"members":1,"accepted":0,"full":1}` {
		t.Errorf("publish: %s", got)
	}
	s.reload("megaphone {\nbroker memory\n}", topicSite)
	s.reload(global, topicSite)
	read := s.read(a)
	read.wants("1", "2")
	if got := s.publish("news", "4"); got != `{"members":1,"accepted":1,"full":0}` {
		t.Errorf("publish: %s", got)
	}
	read.wants("4")
	later := s.createWith(`{"topics":[{"topic":"news","last":"all"}]}`)
	s.call(200, http.MethodPost, "/topic/news/close", `{"as":"done"}`)
	s.read(later).wants("1", "2", "3", "4", "null")
	read.wants("null")
	if got := s.call(200, http.MethodGet, "/topic/news", ""); got != `{"members":2,"connected":2,"kept":4,"closed":"done"}` {
		t.Errorf("the topic is %s", got)
	}
}

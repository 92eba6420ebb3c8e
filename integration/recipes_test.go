package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

const (
	site   = "https://app.example.com"
	hello  = `\{"sid":"chat","eid":"[^"]+","ts":"[^"]+","body":\{"text":"hello"\}\}`
	events = "text/event-stream"
)

func TestRecipesAreListedAndFormatted(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("../docs/recipes/README.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../docs/recipes/*.md")
	if err != nil || len(pages) < 2 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" && !strings.Contains(string(list), "("+name+")") {
			t.Errorf("%s is not in the list of recipes", name)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range blocks(string(text), "caddyfile") {
			if formatted := string(caddyfile.Format([]byte(block))); formatted != block {
				t.Errorf("%s: a Caddyfile is not formatted; it should be\n%s", page, formatted)
			}
		}
	}
}

func TestRecipeForwardAuth(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "forward-auth")
	s := r.start(0)
	end := r.backendOfThePage()
	r.session(hello, "not yours\n403\n", "please log in\n401\n")
	end()

	client := r.client(s)
	channel := r.backend.channel("alice")
	r.backend.write(channel, `{"text":"hello"}`)
	read := site + "/read/" + channel.ConsumerAddress
	stream := bufio.NewReader(r.get(client, read+"?after=", "Cookie", "session=alice", "Accept", events).Body)
	r.line(stream, "data: ")
	r.backend.write(channel, "1")
	if data := r.line(stream, "data: "); !strings.HasSuffix(data, `"body":1}`) {
		t.Error(data)
	}
	r.wantStatus(403, client, read+"?after=", "Cookie", "session=mallory", "Accept", events)
	r.wantStatus(401, client, read+"/", "Accept", events)
	r.wantStatus(401, client, site+"/read/%6dain"+strings.TrimPrefix(channel.ConsumerAddress, "main")+"?poll=0")
	r.wantStatus(401, client, site+"//read/"+channel.ConsumerAddress)
	r.wantStatus(404, client, site+"/write/"+channel.ProducerAddress+"/chat", "Cookie", "session=alice")
	r.wantStatus(200, client, site+"/", "Cookie", "session=alice")

	if text, err := r.firstMessage(client, read+"?after=", "alice"); err != nil || !strings.Contains(text, `"body":{"text":"hello"}`) {
		t.Errorf("a WebSocket of alice: %q %v", text, err)
	}
	if text, err := r.firstMessage(client, read+"?after=", "mallory"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a WebSocket of mallory: %q %v", text, err)
	}
	if text, err := r.firstMessage(client, site+"/socket", "alice"); text != ownMessage {
		t.Errorf("a WebSocket of the backend's own: %q %v", text, err)
	}
}

func TestRecipeOwnAddress(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "own-address")
	s := r.start(0)
	end := r.backendOfThePage()
	r.session(hello, "retry: 1000\n", "id: [^\n]+\ndata: "+hello, "please log in\n401\n")
	end()

	client := r.client(s)
	channel := r.backend.channel("bob")
	get := func(url string, header ...string) *bufio.Reader {
		response := r.get(client, site+url, append(header, "Cookie", "session=bob")...)
		if response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", url, response.Status)
		}
		if strings.Contains(fmt.Sprint(response.Header), channel.ConsumerAddress) {
			t.Errorf("the reply's header has the address: %v", response.Header)
		}
		return bufio.NewReader(response.Body)
	}
	for i := range 3 {
		r.backend.write(channel, fmt.Sprint(i))
	}
	stream := get("/events", "Accept", events)
	id := r.line(stream, "id: ")
	if data := r.line(stream, "data: "); !strings.HasSuffix(data, `"body":0}`) {
		t.Error(data)
	}
	stream = get("/events", "Accept", events, "Last-Event-ID", id)
	id = r.line(stream, "id: ")
	if data := r.line(stream, "data: "); !strings.HasSuffix(data, `"body":1}`) {
		t.Errorf("after the first event: %s", data)
	}
	if line := r.line(get("/events?after="+id), `{"sid":`); !strings.HasSuffix(line, `"body":2}`) {
		t.Errorf("after the second event: %s", line)
	}
	if text, err := r.firstMessage(client, site+"/events?after="+id, "bob"); err != nil || !strings.HasSuffix(text, `"body":2}`) {
		t.Errorf("a WebSocket: %q %v", text, err)
	}
	if text, err := r.firstMessage(client, site+"/socket", "bob"); text != ownMessage {
		t.Errorf("a WebSocket of the backend's own: %q %v", text, err)
	}

	// There is no other endpoint, and a header from the client gives no access.
	r.wantStatus(404, client, site+"/read/"+channel.ConsumerAddress, "Cookie", "session=bob")
	r.wantStatus(200, client, site+"/", "Cookie", "session=alice", "Megaphone-Channel", channel.ConsumerAddress)
	r.wantStatus(401, client, site+"/events", "Megaphone-Channel", channel.ConsumerAddress)
	s.Await("the access log has the reads", func() bool { return strings.Contains(s.Log(), `"uri":"/events?after=`) })
	if log := regexp.MustCompile(`"Megaphone-Channel":\["[^"]*"\]|"uri":"/read/[^"]*"`).ReplaceAllString(s.Log(), ""); strings.Contains(log, channel.ConsumerAddress) {
		t.Error("the log has the address") // apart from what this test has sent itself
	}
}

func TestRecipeBasicAuth(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "basic-auth")
	r.setenv("PASSWORD", "long and random")
	r.setenv("PRODUCER_HASH", strings.TrimSpace(r.run(r.block("sh prepare", 0)+"echo $PRODUCER_HASH")))
	s := r.start(0)
	r.session(`\{"status":"OK"\}`, hello, "^\n401\n$")

	client := r.client(s)
	producers := strings.Replace(site, "app", "producers", 1)
	for _, path := range []string{"/create", "/write/main.x/s", "/write-batch", "/write", "/channelsExists"} {
		r.wantStatus(401, client, producers+path)
		if response := r.get(client, site+path); response.Header.Get("Content-Type") != "" {
			t.Errorf("%s is served to the public", path)
		}
	}
}

func TestRecipeClientCertificates(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	r := openRecipe(t, "client-certificates")
	if output := r.run("set -e\n" + r.block("sh prepare", 0) + "echo done"); !strings.HasSuffix(output, "done\n") {
		t.Fatal(output)
	}
	s := r.start(0)
	r.session(`\{"status":"OK"\}`, hello, "^\nrefused\n$")

	// A certificate of another authority gives no access. Neither does the name of another site.
	r.run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj '/CN=billing' -keyout stranger.key -out stranger.pem")
	stranger, err := tls.LoadX509KeyPair(filepath.Join(r.dir, "stranger.pem"), filepath.Join(r.dir, "stranger.key"))
	if err != nil {
		t.Fatal(err)
	}
	if response, err := r.client(s, stranger).Post("https://producers.example.com/create", "", nil); err == nil {
		response.Body.Close()
		t.Errorf("with a stranger's certificate: %s", response.Status)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, site+"/create", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "producers.example.com"
	response, err := r.client(s).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("through another site: %s", response.Status)
	}
}

func TestRecipeSeveralServers(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "several-servers")
	agents := map[string]*testserver.Server{}
	env := r.env
	for agent, port := range map[string]string{"a": ":3001", "b": ":3002"} {
		r.env = append(env, "AGENT="+agent, "PORT="+strings.TrimPrefix(r.ports.Replace(port), ":"))
		agents[agent] = r.start(0)
	}
	r.env = env
	front := r.start(1)
	exchange := func(agent string) string {
		return `(?s)(\{"status":"OK"\}\{"failures":\[\]\}\{[^\n]*"body":"to ` + agent + `"\}\n\{[^\n]*"body":"batch"\}\n)`
	}
	// The servers create the channels in turn. Any server may be the first.
	output := r.run(r.block("sh", 0))
	for _, agent := range []string{"a", "b"} {
		if !regexp.MustCompile(exchange(agent)).MatchString(output) {
			t.Errorf("nothing of agent %s in\n%s", agent, output)
		}
	}

	client := r.client(front)
	var channels []channel // of a, then of b
	for _, session := range []string{"alice", "bob"} {
		channels = append(channels, r.backend.channel(session))
	}
	slices.SortFunc(channels, func(x, y channel) int { return strings.Compare(x.ConsumerAddress, y.ConsumerAddress) })
	for _, channel := range channels {
		stream := bufio.NewReader(r.get(client, site+"/read/"+channel.ConsumerAddress, "Accept", events).Body)
		r.line(stream, "retry: ")
		r.backend.write(channel, "1")
		r.line(stream, "data: ") // at once, despite the front server in between
		conn, _, err := websocket.Dial(t.Context(), site+"/read/"+channel.ConsumerAddress+"?after=", &websocket.DialOptions{HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		if _, text, err := conn.Read(t.Context()); err != nil || !strings.HasSuffix(string(text), `"body":1}`) {
			t.Errorf("%s %v", text, err)
		}
		conn.CloseNow()
	}

	// If a batch is not split, the server reports the messages that it cannot deliver.
	batch := fmt.Sprintf(`{"channels":[%q,%q],"messages":[{"streamId":"chat","body":2}]}`, channels[0].ProducerAddress, channels[1].ProducerAddress)
	response, err := http.Post(r.backend.private+"/a/write-batch", "application/json", strings.NewReader(batch))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if want := fmt.Sprintf(`{"failures":[{"channel":%q,"index":0,"reason":"NOT_FOUND"}]}`, channels[1].ProducerAddress); err != nil || string(text) != want {
		t.Errorf("%s %v", text, err)
	}
	if python, err := exec.LookPath("python3"); err == nil {
		call := fmt.Sprintf("print(write_batch([%q, %q], [{'streamId': 'chat', 'body': 3}]))", channels[0].ProducerAddress, channels[1].ProducerAddress)
		if output, err := exec.CommandContext(t.Context(), python, "-c", r.block("python", 0)+call).CombinedOutput(); err != nil || string(output) != "[]\n" {
			t.Errorf("the backend of the page: %s %v", output, err)
		}
	}
	r.wantStatus(404, client, site+"/read/c.x?poll=0")
	r.wantStatus(404, client, site+"/read/nothing?poll=0")
	r.wantStatus(401, client, site+"/create") // goes to the application, which asks for a session

	// When a server is down, the other one creates the channels.
	agents["a"].Stop()
	for i := range 4 {
		if channel := r.backend.channel(fmt.Sprint("user ", i)); !strings.HasPrefix(channel.ConsumerAddress, "b.") {
			t.Errorf("created %+v", channel)
		}
	}
	r.wantStatus(502, client, site+"/read/"+channels[0].ConsumerAddress+"?poll=0")
	r.wantStatus(200, client, site+"/read/"+channels[1].ConsumerAddress+"?poll=0")
}

func TestRecipeCORS(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "cors")
	r.start(0)
	r.session("(?i)access-control-allow-origin: https://www.example.com\r\n", "not for this page\n",
		"(?i)access-control-allow-headers: [^\n]*last-event-id")
}

package backend_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
	"github.com/caddy-megaphone/megaphone/demo/answer/backend"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// patience is how long anything here may take on a machine that is busy with other work.
const patience = 60 * time.Second

// A demo has Caddy with the demo's Caddyfile in its own process, and the backend in this one.
type demo struct {
	*backend.Backend

	t      *testing.T
	server *testserver.Server
	env    []string
	site   string // where pages read
	inside string // the private site
}

// start runs the demo. The options are added to the settings of Megaphone.
func start(t *testing.T, broker, options string) *demo {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "demo", "answer", "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	port, inside := testserver.FreePort(t), fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	d := &demo{t: t, server: testserver.New(t), site: fmt.Sprintf("https://localhost:%d", port), inside: "http://" + inside}
	d.env = []string{
		"ANSWER_ADMIN=unix/" + d.server.Socket("admin"), fmt.Sprintf("ANSWER_PORT=%d", port), "ANSWER_MEGAPHONE=" + inside,
		"ANSWER_ROOT=" + root, "ANSWER_DATA=" + filepath.Join(d.server.Dir, "journal"), "ANSWER_BROKER=" + broker,
	}
	caddyfile := strings.Replace(string(text), "ttl 1m", options, 1)
	d.server.StartFile(caddyfile, d.env...)
	d.Backend = backend.New(d.inside)
	d.server.Await("there is a certificate", func() bool {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(d.site, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return d
}

// restart starts Caddy again after it has ended.
func (d *demo) restart() {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.server.Dir, "Caddyfile"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.server.StartFile(string(text), d.env...)
}

// post sends a request as a page does.
func (d *demo) post(what string, body, reply any) (status int) {
	text, _ := json.Marshal(body)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/"+what, bytes.NewReader(text)))
	if reply != nil {
		_ = json.Unmarshal(w.Body.Bytes(), reply)
	}
	return w.Code
}

// ask asks a question, and returns the topic of the answer.
func (d *demo) ask(seconds int) string {
	d.t.Helper()
	var reply struct{ Answer string }
	if status := d.post("ask", map[string]any{"question": "Why?", "seconds": seconds}, &reply); status != http.StatusOK {
		d.t.Fatalf("ask: %d", status)
	}
	return reply.Answer
}

// topic is what Megaphone says of an answer.
type topic struct {
	Members, Kept int
	Closed        string
}

func (d *demo) topic(answer string) (s topic) {
	d.t.Helper()
	response, err := http.Get(d.inside + "/topic/" + answer)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		d.t.Fatal(err)
	}
	return s
}

// await waits until a topic is as wanted.
func (d *demo) await(what, answer string, wanted func(topic) bool) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); !wanted(d.topic(answer)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain until %s: %+v", what, d.topic(answer))
		}
	}
}

// A page shows an answer, in the way of answer.js.
type page struct {
	asleep sync.RWMutex // held while the page's machine sleeps: then nothing is read from its sockets

	mu                         sync.Mutex
	question, text, end        string
	channels, messages, missed int
	done                       chan error
	stop                       context.CancelFunc
}

// open opens a page.
func (d *demo) open(answer string) *page {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	p := &page{done: make(chan error, 1), stop: cancel}
	d.t.Cleanup(cancel)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return sleepyConn{conn, p}, conn.(*net.TCPConn).SetReadBuffer(4096)
	}
	client := &megaphone.Client{URL: d.site, HTTP: &http.Client{Transport: &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}}
	go func() {
		for ctx.Err() == nil {
			var channel struct{ ConsumerAddress string }
			if status := d.post("read", map[string]string{"answer": answer}, &channel); status == http.StatusServiceUnavailable {
				time.Sleep(10 * time.Millisecond)
				continue
			} else if status != http.StatusOK {
				p.done <- fmt.Errorf("read: %d", status)
				return
			}
			p.begin()
			for event, err := range client.Read(ctx, channel.ConsumerAddress, megaphone.ReadOptions{Transport: megaphone.WebSocket}) {
				if errors.Is(err, megaphone.ErrNotFound) {
					break // with another channel, from the start
				}
				if over, err := p.take(event, err); over || err != nil {
					p.done <- err
					return
				}
			}
		}
		p.done <- ctx.Err()
	}()
	return p
}

func (p *page) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.channels++
	p.text = ""
}

// take shows an event, and reports whether it was the end.
func (p *page) take(event megaphone.Event, err error) (over bool, _ error) {
	if err != nil {
		return false, err
	}
	var body string
	if err := json.Unmarshal(event.Body, &body); err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.messages++
	p.missed += event.Missed
	switch {
	case event.End != "":
		p.end = event.End
	case event.StreamID == "question":
		p.question = body
	default:
		p.text += body
	}
	return event.End != "", nil
}

// awaitText waits until the page shows some of the answer.
func (p *page) awaitText(t *testing.T, runes int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		has := len([]rune(p.text))
		p.mu.Unlock()
		if has >= runes {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the page shows only %d characters", has)
		}
	}
}

// wantEnd waits until the page has seen the end, and checks that it shows the question and this text, of which nothing was
// missed on the way.
func (p *page) wantEnd(t *testing.T, who, end, text string) {
	t.Helper()
	if err := <-p.done; err != nil {
		t.Errorf("%s: %v", who, err)
	}
	whole := p.text == text || end == "aborted" && p.text != "" && strings.HasPrefix(text, p.text) && p.text != text
	if p.question != "Why?" || p.end != end || p.missed > 0 || !whole {
		t.Errorf("%s: the question is %q, the end %q, %d missed, want %q; the text is whole: %v\n%q", who, p.question, p.end, p.missed, end, whole, p.text)
	}
}

// A sleepyConn is read only while the page's machine is awake.
type sleepyConn struct {
	net.Conn

	page *page
}

func (c sleepyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.page.asleep.RLock()
	defer c.page.asleep.RUnlock()
	return n, err
}

// whole returns the text of an answer.
func whole(seconds int) string {
	var text strings.Builder
	for piece := range backend.Answer("Why?", seconds) {
		text.WriteString(piece)
	}
	return text.String()
}

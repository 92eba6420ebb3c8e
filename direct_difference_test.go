package megaphone_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// changing matches what differs between two replies to the same request, and its replacement.
var changing = []struct {
	pattern *regexp.Regexp
	same    string
}{
	{regexp.MustCompile(`\r\nDate: [^\r\n]*`), ""},
	{regexp.MustCompile(`main\.[A-Za-z0-9_-]{22}`), "(address)"},
	{regexp.MustCompile(`"eid":"[^"]*"`), "(id)"},
	{regexp.MustCompile(`"20[0-9-]*T[0-9:.]*Z"`), "(time)"},
}

// withoutChanges returns a text without what differs between two replies to the same request.
func withoutChanges(text string) string {
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.same)
	}
	return text
}

// whichScripts returns the seed of the scripts to play, the number of the first one, the number after the last one, and for
// how long to play.
func whichScripts(t *testing.T) (seed, first, end uint64, limit time.Duration) {
	t.Helper()
	parse := func(text string) uint64 {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	seed, end, limit = 1, 150, workload.Duration(t, 600*time.Millisecond)
	if os.Getenv("MEGAPHONE_RANDOM_TIME") != "" {
		seed, end = rand.Uint64(), math.MaxUint64
	}
	if text := os.Getenv("MEGAPHONE_SEED"); text != "" {
		text, number, alone := strings.Cut(text, "/")
		if seed = parse(text); alone {
			first = parse(number)
			end = first + 1
		}
	}
	t.Logf("MEGAPHONE_SEED=%d", seed)
	return seed, first, end, limit
}

// TestDirectWritesEqualNetHTTP sends random requests, cut at random, to a site on a connection that is served directly, and
// to the same site with direct_writes off. Both must send the same bytes and have the same messages. A failure names the
// script: MEGAPHONE_SEED=seed/number runs it alone. MEGAPHONE_RANDOM_TIME=1m runs for that long with a random seed.
func TestDirectWritesEqualNetHTTP(t *testing.T) {
	for name, settings := range map[string]string{
		"channels with room":     "buffer 20\nhold 0",
		"full channels":          fmt.Sprintf("buffer %d\nhold 3ms", enough+2), // some writes wait
		"full channels, watched": fmt.Sprintf("buffer %d\nhold 20ms", enough+8),
		"a guest broker":         "buffer 20\nhold 0\nbroker guest", // all writes wait for its answer
	} {
		t.Run(name, func(t *testing.T) { directEqualsNetHTTP(t, settings) })
	}
}

func directEqualsNetHTTP(t *testing.T, settings string) {
	seed, first, last, limit := whichScripts(t)
	megaphone.SampleDirectWrites(t, 4)
	other := filepath.Join(t.TempDir(), "other.sock")
	settings = "servers {\nmax_header_size 8KB\n}\nmegaphone {\nmax_message_size 3KB\n" + settings + "\n}"
	site := func(options string) string {
		return "route {\nmegaphone create write read exists manage {\ncors_origins *\n" + options + "}\n" +
			`respond "next: {http.request.method} {http.request.uri} {http.request.host}"` + "\n}"
	}
	direct := serve(t, settings, site(""))
	direct.ctx = t.Context() // the scripts may take longer than other tests
	if err := direct.load(settings, site("")+"\n}\nhttp://:81 {\nbind unix/"+other+"\n"+site("direct_writes off\n")); err != nil {
		t.Fatal(err)
	}
	direct.awaitServers(2)
	plain := direct.in(t)
	plain.socket = other

	end := time.Now().Add(limit / 4)
	number := first
	for ; number < last && time.Now().Before(end) && !t.Failed(); number++ {
		comparison{direct, plain, seed, number}.run()
	}
	metrics := direct.metrics()
	if n := metrics["caddy_megaphone_direct_mismatches_total{}"]; n > 0 {
		t.Errorf("%v samples differ", n)
	}
	t.Logf("%d scripts, %v samples", number-first, metrics["caddy_megaphone_direct_samples_total{}"])
}

// A comparison plays a script to two sites.
type comparison struct {
	direct, plain *server
	seed, number  uint64
}

func (c comparison) run() {
	t := c.direct.T
	s := newScript(c.seed, c.number)
	s.write()
	text := s.text.String()
	const mark = "GET /mark HTTP/1.1\r\nHost: localhost\r\n"
	cut := ""
	if s.chance(3) {
		text += mark + "\r\n"
		cut = s.request(s.IntN(2))
		cut = cut[:s.IntN(len(cut)+1)]
	} else {
		text += mark + "Connection: close\r\n\r\n"
	}
	pieces := s.cut(text)

	got, want := c.play(text, cut, pieces, 100*time.Millisecond)
	if got != want && (got.guessed || want.guessed) { // too early, if the machine is busy: a write that waits is withdrawn then
		got, want = c.play(text, cut, pieces, 3*time.Second)
	}
	got.guessed = want.guessed
	if got != want {
		t.Errorf("MEGAPHONE_SEED=%d/%d: after the requests\n%q\nand a part of one\n%q\na direct connection replies\n%q\nand net/http\n%q\n"+
			"the messages are\n%q\nand\n%q", c.seed, c.number, text, cut, got.replies, want.replies, got.messages, want.messages)
	}
}

// An outcome is what a script has led to.
type outcome struct {
	replies, messages string
	guessed           bool // that no more replies would come, since none came for a while
}

// play plays a script to both sites. The client's side of a connection ends when no reply comes for the time quiet.
func (c comparison) play(text, cut string, pieces []int, quiet time.Duration) (direct, plain outcome) {
	played := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() { played <- o }() // also if play fails
		o = c.direct.play(text, cut, pieces, quiet, true)
	}()
	plain = c.plain.play(text, cut, pieces, quiet, false)
	return <-played, plain
}

// cut returns the lengths of random pieces of a text.
func (s *script) cut(text string) (pieces []int) {
	longest := pick(s, 20, 200, 2000, len(text))
	for n := 0; n < len(text); n += pieces[len(pieces)-1] {
		pieces = append(pieces, 1+s.IntN(longest))
	}
	return pieces
}

// play sends a script on a new connection, and returns all replies and all messages of the script's channel. The
// connection is served directly, if the site does that. cut is sent last, and then the client ends its side of the
// connection.
func (s *server) play(text, cut string, pieces []int, quiet time.Duration, direct bool) (o outcome) {
	c := s.create()
	client := s.rawClient()
	defer client.Close()
	client.writeAll(c, numbered(0, enough)...)
	if direct {
		s.eventually(s.isDirect)
	}
	addresses := strings.NewReplacer("ADDRESS", c.ProducerAddress, "READ", c.ConsumerAddress)
	var sent atomic.Bool
	go func() {
		defer sent.Store(true)
		rest := addresses.Replace(text)
		for _, n := range slices.Concat(pieces, []int{len(rest)}) {
			n = min(n, len(rest))
			if _, err := io.WriteString(client.Conn, rest[:n]); err != nil {
				return // the server has closed the connection
			}
			rest = rest[n:]
			if len(pieces) < 50 {
				time.Sleep(50 * time.Microsecond)
			}
		}
	}()
	o.replies, o.guessed = client.all(addresses.Replace(cut), &sent, quiet)
	if direct {
		client.Close()
		s.eventually(func() bool { return !s.isDirect() })
	}
	o.replies = withoutChanges(o.replies)
	o.messages = withoutChanges(s.do(http.MethodGet, c.readPath()+"?poll=0&after=", nil, nil).body)
	return o
}

// all reads all replies. When the reply to the mark has arrived, or none for the time quiet after all was sent, all sends rest and
// ends the client's side of the connection. It reports whether it has waited for so long.
func (c *rawClient) all(rest string, sent *atomic.Bool, quiet time.Duration) (replies string, guessed bool) {
	var text strings.Builder
	buffer := make([]byte, 4096)
	for ended := false; ; {
		limit := 20 * time.Second
		if !ended {
			limit = quiet
		}
		if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
			c.Fatal(err)
		}
		n, err := c.replies.Read(buffer)
		text.Write(buffer[:n])
		if err != nil && (ended || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return text.String(), guessed // the server has closed the connection, with or without a reset
		}
		if !ended && sent.Load() && (err != nil || strings.Contains(text.String(), "next: GET /mark")) {
			ended, guessed = true, err != nil
			_, _ = io.WriteString(c.Conn, rest) // may fail: the server may have closed the connection
			_ = c.Conn.(*net.UnixConn).CloseWrite()
		}
	}
}

// TestADirectConnectionNeverChangesToHTTP2: net/http looks for HTTP/2 at the beginning of a connection, and takes one that
// goes back to it for a new one. A proxy that shares the connection between its clients would be confused.
func TestADirectConnectionNeverChangesToHTTP2(t *testing.T) {
	for name, settings := range map[string]string{"without the listener wrapper": "", "with the listener wrapper": "servers {\nlistener_wrappers {\nmegaphone\n}\n}"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, settings, "megaphone")
			client := s.direct(s.create())
			client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			client.wants(http.StatusBadRequest)
			client.wantsEnd()
		})
	}
}

// TestManyEmptyLinesAreRefused: net/http skips only 4 bytes of empty lines before a request.
func TestManyEmptyLinesAreRefused(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for _, late := range []bool{false, true} { // the request comes after the connection has gone back
		client := s.direct(c)
		client.send("\r\n\r\n")
		client.writeAll(c, "1", "2")
		client.send("\n\n\n")
		if late {
			client.send("\n\n")
			s.eventually(func() bool { return !s.isDirect() })
			client.send(writeRequest(c.ProducerAddress, "3"))
		} else {
			client.send("\n\n" + writeRequest(c.ProducerAddress, "3"))
		}
		client.wants(http.StatusBadRequest)
		client.wantsEnd()
	}
}

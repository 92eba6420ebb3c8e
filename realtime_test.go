package megaphone_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A realTimeServer is the server of TestRealTime, and what its tests use that must exist before any of them begins.
type realTimeServer struct {
	*server

	idle, slow     *rawClient // their writes are served directly
	ofIdle, ofSlow channel    // where they write
	begun          time.Time  // before the first write
}

// roomOfRealTime is how many messages fit into a channel of TestRealTime.
const roomOfRealTime = enough + 10

// TestRealTime has tests that wait for the real clock. Only one Caddy runs at a time, so they share one and run at once.
func TestRealTime(t *testing.T) {
	settings := fmt.Sprintf("servers {\ntimeouts {\nidle 1s\nread_body_idle 1s\n}\n}\nmegaphone {\nbuffer %d\nhold 1500ms\nheartbeat 50ms\n}", roomOfRealTime)
	s := &realTimeServer{server: serve(t, settings, "megaphone")}
	s.ofIdle, s.ofSlow, s.begun = s.create(), s.create(), time.Now()
	s.idle, s.slow = s.direct(s.ofIdle), s.direct(s.ofSlow)
	s.eventually(func() bool { return s.directConnections() == 2 })
	for name, test := range map[string]func(*realTimeServer){
		"a detached read that is idle has no goroutine":           aDetachedReadThatIsIdleHasNoGoroutine,
		"an idle hijacked connection is closed":                   anIdleHijackedConnectionIsClosed,
		"a direct write that arrives slowly goes back":            aDirectWriteThatArrivesSlowlyGoesBack,
		"an ingest whose producer pauses is told what is written": anIngestWhoseProducerPauses,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := *s
			own.server, own.idle, own.slow = s.in(t), s.idle.in(t), s.slow.in(t)
			test(&own)
		})
	}
}

func aDetachedReadThatIsIdleHasNoGoroutine(s *realTimeServer) {
	if runtime.GOOS != "linux" {
		s.Skip("on this system a goroutine waits for the client")
	}
	isIdle := func() bool { return !handlerWaits(s.T) && !readWaits(s.T) }
	lines, events, socket := s.create(), s.create(), s.create()
	readers := map[channel]*bufio.Reader{}
	for c, accept := range map[channel]string{lines: "*/*", events: "text/event-stream"} {
		readers[c] = s.openRead(c.readPath(), http.Header{"Accept": {accept}}).lines
	}
	conn := s.dial(socket, "?after=")
	s.eventually(isIdle)
	if got := s.metrics()["caddy_megaphone_detached_readers{}"]; got != 3 {
		s.Errorf("%v readers are detached, want 3", got)
	}
	for c, reader := range readers {
		s.write(c, `"one"`)
		for line := ""; !strings.Contains(line, `"one"`); {
			var err error
			if line, err = reader.ReadString('\n'); err != nil {
				s.Fatal(err)
			}
		}
	}
	s.write(socket, "1")
	s.sendText(conn, fmt.Sprintf(`{"ack":%q}`, s.wantMessages(conn, "1")[0]))
	s.eventually(isIdle)
}

func anIdleHijackedConnectionIsClosed(s *realTimeServer) {
	last := s.begun
	for range 3 { // takes longer than the connection may be idle, but it is not idle
		time.Sleep(400 * time.Millisecond)
		before := last
		last = time.Now()
		_, err := io.WriteString(s.idle.Conn, writeRequest(s.ofIdle.ProducerAddress, "1"))
		if err == nil {
			_, err = s.idle.replies.Peek(1)
		}
		if pause := time.Since(before); err != nil && pause >= time.Second {
			s.Skipf("the machine is busy: it was idle for up to %v, so that the connection was closed: %v", pause, err)
		} else if err != nil {
			s.Fatal(err)
		}
		s.idle.wants(http.StatusCreated)
	}
	s.idle.wantsEnd() // or fails after 20 seconds
	if took := time.Since(last); took < time.Second {
		s.Errorf("the connection was closed after %v, want 1s", took)
	}
}

func aDirectWriteThatArrivesSlowlyGoesBack(s *realTimeServer) {
	request := writeRequest(s.ofSlow.ProducerAddress, `"slow"`)
	s.slow.send(request[:20])
	s.eventually(func() bool { return !s.isDirect() }) // after a second, and when the idle one is closed
	s.slow.send(request[20:])
	s.slow.wants(http.StatusCreated)
	s.openRead(s.ofSlow.readPath()+"?poll=0", nil).ends(append(numbered(0, enough), `"slow"`)...) // does not change how many read
}

// anIngestWhoseProducerPauses checks the reply to a producer that pauses for longer than Caddy's read_body_idle: it says
// what was written. A line that waits for room still gets its whole hold time.
func anIngestWhoseProducerPauses(s *realTimeServer) {
	c := s.create()
	for i := range roomOfRealTime - 1 { // the channel has room for the first line
		s.write(c, fmt.Sprint(i))
	}
	body, lines := io.Pipe()
	defer lines.Close()
	go func() {
		for i := range 2 {
			_, _ = fmt.Fprintln(lines, ingestLine(c.ProducerAddress, fmt.Sprint(i)))
		}
	}()
	r := s.ingest(body)
	want := fmt.Sprintf(`"written":1,"failures":[{"channel":%q,"index":1,"reason":"TIMEOUT"}],"failuresTotal":1}`, c.ProducerAddress)
	if r.StatusCode != http.StatusBadRequest || !strings.HasPrefix(r.body, `{"code":"BAD_REQUEST",`) || !strings.HasSuffix(r.body, want) || !r.Close {
		s.Errorf("%d %q, connection closed: %v; want 400 with %s and a closed connection", r.StatusCode, r.body, r.Close, want)
	}
}

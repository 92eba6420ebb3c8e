//go:build unix

package integration

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// startTCP starts a server whose site listens on TCP, for what only that can do.
func startTCP(t *testing.T, settings string) (c *client, address string) {
	t.Helper()
	s := testserver.New(t)
	port := testserver.FreePort(t)
	s.Start("megaphone {\n"+settings+"\n}", fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nmegaphone\n}", port))
	return loadClient(t, port, false), fmt.Sprintf("127.0.0.1:%d", port)
}

// A tcpRead is an open read on a connection of its own, whose machine takes little that is not asked for.
type tcpRead struct {
	conn  *net.TCPConn
	lines *bufio.Reader
}

// openTCPRead opens a read, again and again as long as the channel has another reader.
func openTCPRead(t *testing.T, address string, from channel) *tcpRead {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }); e != nil {
				return e
			}
			return err
		}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "GET /read/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", from.ConsumerAddress); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
		if err != nil {
			t.Fatal(err)
		}
		switch response.StatusCode {
		case http.StatusOK:
			return &tcpRead{conn.(*net.TCPConn), bufio.NewReaderSize(response.Body, 512)}
		case http.StatusConflict: // the server has not noticed yet
			conn.Close()
		default:
			t.Fatal(response.Status)
		}
	}
	t.Fatal("the channel is not given free")
	return nil
}

// reset ends the connection as a machine that crashes does, or a network that forgets.
func (r *tcpRead) reset(t *testing.T) {
	t.Helper()
	if err := r.conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := r.conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// A reader that is reset in the middle of a backlog, again and again, loses nothing.
func TestResetInTheMiddleOfABacklog(t *testing.T) {
	const messages = 1500
	// What has reached the client's machine, but not the client, is lost with the connection. The window of 100 messages
	// makes up for that, so there are never more that the client has not read.
	unread := make(chan struct{}, 100)
	c, address := startTCP(t, "in_flight 100")
	channel := c.create()
	producing := make(chan error, 1)
	go func() {
		for i := range messages {
			unread <- struct{}{}
			if status, text, err := c.post("/write/"+channel.ProducerAddress+"/s", fmt.Sprint(i)); err != nil || status != http.StatusCreated {
				producing <- fmt.Errorf("%d %s %w", status, text, err)
				return
			}
		}
		producing <- nil
	}()

	consumer, resets := newConsumer(), 0
	for consumer.next < messages {
		read := openTCPRead(t, address, channel)
		for n := 50 + rand.IntN(150); n > 0 && consumer.next < messages; n-- {
			before := consumer.next
			line, err := read.lines.ReadBytes('\n')
			if err == nil {
				err = consumer.receive(line)
			}
			if err != nil {
				t.Fatalf("after %d messages: %q, %v", consumer.next, line, err)
			}
			if consumer.next > before {
				<-unread
			}
		}
		read.reset(t)
		resets++
		time.Sleep(20 * time.Millisecond) // the server notices, most likely: a read that is refused takes a second
	}
	if err := <-producing; err != nil {
		t.Error(err)
	}
	t.Logf("%d resets", resets)
}

// A reader that stops reading without closing delays nobody. It is cut off after write_timeout, and what
// does not reach its machine is the next reader's.
func TestAStalledReaderDelaysNobody(t *testing.T) {
	const writeTimeout = time.Second
	c, address := startTCP(t, "write_timeout 1s\nhold 100ms")
	stalled, other := c.create(), c.create()
	stalls := openTCPRead(t, address, stalled) // and nothing is read of it

	// One producer writes to both as fast as it can. What the stalled channel does not take is its own affair.
	read := openTCPRead(t, address, other)
	consumer := newConsumer()
	var accepted, refused int
	var slowest time.Duration
	began := time.Now()
	for i := 0; refused == 0; i++ {
		status, text, err := c.post("/write/"+stalled.ProducerAddress+"/s", fmt.Sprint(accepted))
		switch {
		case err == nil && status == http.StatusCreated:
			accepted++
		case err == nil && status == http.StatusServiceUnavailable:
			refused++
		default:
			t.Fatalf("%d %s %v", status, text, err)
		}
		start := time.Now()
		c.write(other, fmt.Sprint(i))
		line, err := read.lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if err := consumer.receive(line); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(start))
	}
	t.Logf("accepted %d until it was full, in %v; the slowest message of the other channel has taken %v", accepted, time.Since(began), slowest)
	if slowest > time.Second {
		t.Errorf("a message of another channel has taken %v", slowest)
	}

	next := openTCPRead(t, address, stalled) // waits until the stalled one is cut off
	if took := time.Since(began); took < writeTimeout || took > 8*writeTimeout {
		t.Errorf("the stalled reader was cut off after %v", took)
	}
	// What was sent to the stalled reader is there, or comes again.
	again := newConsumer()
	for {
		line, err := stalls.lines.ReadBytes('\n')
		if err != nil {
			break
		}
		if err := again.receive(line); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d messages were on their way to it", again.next)
	for again.next < accepted {
		line, err := next.lines.ReadBytes('\n')
		if err == nil {
			err = again.receive(line)
		}
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", again.next, accepted, err)
		}
	}
}

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
)

// A tcpRead is an open read with its own connection. The client's machine buffers only little.
type tcpRead struct {
	conn  *net.TCPConn
	lines *bufio.Reader
}

// openTCPRead opens a read. It tries again while the channel has another reader.
func openTCPRead(t *testing.T, address string, from channel) *tcpRead {
	t.Helper()
	return openReadOver(t, address, from, false, 4096)
}

// openReadOver is openTCPRead, over Multipath TCP if wanted, and with another buffer on the client's machine.
func openReadOver(t *testing.T, address string, from channel, multipath bool, buffer int) *tcpRead {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) }); e != nil {
				return e
			}
			return err
		}}
		dialer.SetMultipathTCP(multipath)
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
		case http.StatusConflict: // the server still has the last reader
			conn.Close()
		default:
			t.Fatal(response.Status)
		}
	}
	t.Fatal("the channel keeps its last reader")
	return nil
}

// reset ends the connection with a TCP reset, as after a crash of the machine or a failure of the network.
func (r *tcpRead) reset(t *testing.T) {
	t.Helper()
	if err := r.conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := r.conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestResetInTheMiddleOfABacklog resets a reader in the middle of a backlog, again and again. The reader loses nothing.
func TestResetInTheMiddleOfABacklog(t *testing.T) {
	t.Parallel()
	const messages = 1500
	// A reset loses the messages that have reached the client's machine but not the client. The window of 100 messages
	// makes up for that, so the client never has more than 100 unread messages.
	unread := make(chan struct{}, 100)
	_, c, address := startTCP(t, "megaphone {\nin_flight 100\n}", "megaphone")
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
		time.Sleep(20 * time.Millisecond) // usually the server has noticed then; otherwise it refuses the read after a second
	}
	if err := <-producing; err != nil {
		t.Error(err)
	}
	t.Logf("%d resets", resets)
}

// TestAStalledReaderDelaysNobody has a reader that stops reading but keeps its connection. It delays nobody else. The
// server cuts it off after write_timeout. The next reader gets the messages that have not reached the stalled machine.
func TestAStalledReaderDelaysNobody(t *testing.T) {
	t.Parallel()
	const writeTimeout = 2 * time.Second
	_, c, address := startTCP(t, fmt.Sprintf("megaphone {\nwrite_timeout %v\nhold 100ms\n}", writeTimeout), "megaphone")
	stalled, other := c.create(), c.create()
	stalls := openTCPRead(t, address, stalled) // nothing reads from it yet

	// One producer writes to both channels as fast as it can, until the stalled channel is full.
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
	t.Logf("accepted %d messages until the channel was full, in %v; the slowest message of the other channel took %v", accepted, time.Since(began), slowest)
	if slowest >= writeTimeout {
		t.Errorf("a message of another channel took %v", slowest)
	}

	next := openTCPRead(t, address, stalled) // waits until the server has cut off the stalled reader
	if took := time.Since(began); took < writeTimeout || took > 8*writeTimeout {
		t.Errorf("the stalled reader was cut off after %v", took)
	}
	// The stalled reader has got each message, or the next reader gets it.
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
	t.Logf("%d messages were on their way to the stalled reader", again.next)
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

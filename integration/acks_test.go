package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Consumers and producers that are cut off at random, by resets, and still get and write each message once.

const (
	many  = 10_000
	kills = 50
)

// aliveFor draws how many messages a consumer gets before it is killed, so that it is killed often enough, whatever is drawn.
func aliveFor(messages, kills int) int { return 1 + rand.N(2*messages/kills*3/5) }

func TestAWebSocketThatAcknowledgesLosesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 1m")
	m := n.create(t)
	written := make(chan struct{})
	v, killed := newView(), 0
	for len(v.bodies) < many {
		client := n.linkClient(t, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		conn, _, err := websocket.Dial(ctx, n.http+"/read/"+m.ConsumerAddress+"?after=", &websocket.DialOptions{HTTPClient: client.Client})
		if err != nil {
			t.Fatal(err)
		}
		if killed == 0 { // it is known from the first connection that this client acknowledges
			if err := conn.Write(ctx, websocket.MessageText, []byte(`{"ack":""}`)); err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(written)
				n.writeMany(t, m, many)
			}()
		}
		// It acknowledges now and then, and slowly, but before the window of 100 is full.
		unacknowledged := 0
		for left := aliveFor(many, kills); left > 0 && len(v.bodies) < many; left-- {
			_, text, err := conn.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			e := v.add(t, text)
			if unacknowledged++; unacknowledged < 1+rand.N(90) {
				continue
			}
			unacknowledged = 0
			time.Sleep(time.Millisecond)
			if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"ack":%q}`, e.EID)); err != nil {
				t.Fatal(err)
			}
		}
		client.link.Load().reset()
		_ = conn.CloseNow()
		cancel()
		killed++
	}
	<-written
	v.isWhole(t, many)
	if killed < kills {
		t.Errorf("killed %d times only", killed)
	}
}

func TestAPollingConsumerLosesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 1m")
	m := n.create(t)
	written := make(chan struct{})
	go func() {
		defer close(written)
		n.writeMany(t, m, many)
	}()
	v, killed := newView(), 0
	for ; len(v.bodies) < many; killed++ {
		client := n.linkClient(t, false)
		for left := aliveFor(many, kills); left > 0 && len(v.bodies) < many; {
			got := pollSome(t, client, n.http+"/read/"+m.ConsumerAddress+"?poll=1s&after="+v.cursor, v, left)
			left -= got
		}
		client.link.Load().reset()
	}
	<-written // the last reply may come after the message
	v.isWhole(t, many)
	if killed < kills {
		t.Errorf("killed %d times only", killed)
	}
}

// pollSome polls, and reads at most so many lines of the reply.
func pollSome(tb testing.TB, c *linkClient, url string, v *view, lines int) (got int) {
	tb.Helper()
	response := open(tb, c.Client, url)
	if response.StatusCode != http.StatusOK {
		tb.Fatal(response.Status)
	}
	for reader := bufio.NewReaderSize(response.Body, 16); got < lines; got++ {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			tb.Fatal(err)
		}
		v.add(tb, line)
	}
	return got
}

// TestEachMessageOnceOverFaultsOnBothSides: a producer repeats every write that was not answered, and a consumer shows
// its cursor. Both are cut off at random.
func TestEachMessageOnceOverFaultsOnBothSides(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 1m\nbuffer 10")
	m := n.create(t)
	const messages = 1500
	var repeats atomic.Int64
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range messages {
			for !writeKeyed(t, n, m, i) {
				repeats.Add(1)
			}
		}
	}()
	v, killed := newView(), 0
	for len(v.bodies) < messages {
		client := n.linkClient(t, false)
		response := open(t, client.Client, n.http+"/read/"+m.ConsumerAddress+"?after="+v.cursor)
		if response.StatusCode != http.StatusOK {
			t.Fatal(response.Status)
		}
		reader := bufio.NewReader(response.Body)
		for left := aliveFor(messages, kills); left > 0 && len(v.bodies) < messages; left-- {
			line, err := reader.ReadBytes('\n')
			if err != nil {
				break // the read has lasted its time
			}
			v.add(t, line)
		}
		client.link.Load().reset()
		response.Body.Close()
		killed++
	}
	<-written
	v.isWhole(t, messages)
	if killed < kills || repeats.Load() < kills {
		t.Errorf("the consumer was killed %d times, the producer %d times", killed, repeats.Load())
	}
}

// writeKeyed writes a number, and may be cut off meanwhile. It reports whether it has got an answer.
func writeKeyed(tb testing.TB, n *network, m mailbox, number int) bool {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(n.http, "http://"), 10*time.Second)
	if err != nil {
		tb.Error(err)
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	body := fmt.Sprint(number)
	fmt.Fprintf(conn, "POST /write/%s/s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"+
		"Idempotency-Key: message-%d\r\nContent-Length: %d\r\n\r\n%s", m.ProducerAddress, number, len(body), body)
	if rand.N(8) == 0 {
		time.Sleep(rand.N(500 * time.Microsecond)) // before, while or after it is served
		_ = conn.(*net.TCPConn).SetLinger(0)
		return false
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		tb.Error(err)
		return false
	}
	response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		tb.Errorf("write: %s", response.Status)
	}
	return true
}

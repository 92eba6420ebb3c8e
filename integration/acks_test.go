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

// These tests reset connections of consumers and producers at random. Each message is still written and received once.

const (
	many  = 10_000
	kills = 50
)

// aliveFor draws how many messages a consumer gets before the test kills it. Even the largest draws allow enough kills.
func aliveFor(messages, kills int) int { return 1 + rand.N(2*messages/kills*3/5) }

func TestAWebSocketThatAcknowledgesLosesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 1m")
	ch := n.create(t)
	written := make(chan struct{})
	v, killed := newView(), 0
	for len(v.bodies) < many {
		client := n.linkClient(t, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		conn, _, err := websocket.Dial(ctx, n.http+"/read/"+ch.ConsumerAddress+"?after=", &websocket.DialOptions{HTTPClient: client.Client})
		if err != nil {
			t.Fatal(err)
		}
		if killed == 0 { // tells the server on the first connection that this client acknowledges
			if err := conn.Write(ctx, websocket.MessageText, []byte(`{"ack":""}`)); err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(written)
				n.writeMany(t, ch, many)
			}()
		}
		// The client acknowledges now and then, and slowly, but always before the window of 100 messages is full.
		unacknowledged := 0
		for left := aliveFor(many, kills); left > 0 && len(v.bodies) < many; left-- {
			_, text, err := conn.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			m := v.add(t, text)
			if unacknowledged++; unacknowledged < 1+rand.N(90) {
				continue
			}
			unacknowledged = 0
			time.Sleep(time.Millisecond)
			if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"ack":%q}`, m.EID)); err != nil {
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
		t.Errorf("the test killed the consumer only %d times", killed)
	}
}

func TestAPollingConsumerLosesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 1m")
	ch := n.create(t)
	written := make(chan struct{})
	go func() {
		defer close(written)
		n.writeMany(t, ch, many)
	}()
	v, killed := newView(), 0
	for ; len(v.bodies) < many; killed++ {
		client := n.linkClient(t, false)
		for left := aliveFor(many, kills); left > 0 && len(v.bodies) < many; {
			got := pollSome(t, client, n.http+"/read/"+ch.ConsumerAddress+"?poll=1s&after="+v.cursor, v, left)
			left -= got
		}
		client.link.Load().reset()
	}
	<-written // the reply to the last write may come after the message
	v.isWhole(t, many)
	if killed < kills {
		t.Errorf("the test killed the consumer only %d times", killed)
	}
}

// pollSome polls and reads at most this many lines of the reply. It returns how many it has read.
func pollSome(tb testing.TB, c *linkClient, url string, v *view, lines int) (got int) {
	tb.Helper()
	response := openAccepted(tb, c.Client, url)
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

// TestEachMessageOnceOverFaultsOnBothSides resets a producer and a consumer at random. The producer repeats every write
// that got no answer, and the consumer sends its cursor.
func TestEachMessageOnceOverFaultsOnBothSides(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 1m\nbuffer 10")
	ch := n.create(t)
	const messages = 1500
	var repeats atomic.Int64
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range messages {
			for !writeKeyed(t, n, ch, i) {
				repeats.Add(1)
			}
		}
	}()
	v, killed := newView(), 0
	for len(v.bodies) < messages {
		client := n.linkClient(t, false)
		response := openAccepted(t, client.Client, n.http+"/read/"+ch.ConsumerAddress+"?after="+v.cursor)
		reader := bufio.NewReader(response.Body)
		for left := aliveFor(messages, kills); left > 0 && len(v.bodies) < messages; left-- {
			line, err := reader.ReadBytes('\n')
			if err != nil {
				break // the read has reached its duration
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
		t.Errorf("the test killed the consumer %d times, and the producer %d times", killed, repeats.Load())
	}
}

// writeKeyed writes a number with a key. At random, it resets its connection meanwhile. It reports whether it has got
// an answer.
func writeKeyed(tb testing.TB, n *network, ch channel, number int) bool {
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
		"Idempotency-Key: message-%d\r\nContent-Length: %d\r\n\r\n%s", ch.ProducerAddress, number, len(body), body)
	if rand.N(8) == 0 {
		time.Sleep(rand.N(500 * time.Microsecond)) // ends before, while or after the server handles the write
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

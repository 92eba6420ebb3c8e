package integration

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// promptly is what something may take, on a busy machine, that is to happen at once.
const promptly = 3 * time.Second

func TestTakeoverFromAStalledReaderIsImmediate(t *testing.T) {
	t.Parallel()
	for name, connection := range plainConnections {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, "hold 300ms\nwrite_timeout 1m\nread_duration 1m\nin_flight 10000\nbuffer 10000")
			m := n.create(t)
			stalled := n.stalledReader(t, m, connection.secure, connection.http2)
			defer stalled.reset()
			accepted := n.fillSocket(t, m)

			start := time.Now()
			response := open(t, n.producer, n.http+"/read/"+m.ConsumerAddress+"?after=")
			line, err := bufio.NewReader(response.Body).ReadString('\n')
			if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(line, `"n":0,`) {
				t.Errorf("%s %.100q %v", response.Status, line, err)
			}
			if took := time.Since(start); took > promptly {
				t.Errorf("the takeover has taken %v", took)
			}
			t.Logf("%d large messages were written to the stalled reader", accepted)
		})
	}
}

// stalledReader begins a plain read and takes nothing of it.
func (n *network) stalledReader(tb testing.TB, m mailbox, secure, http2 bool) *link {
	tb.Helper()
	client, url := n.linkClient(tb, http2), n.http
	if secure {
		url = n.https
	}
	response := open(tb, client.Client, url+"/read/"+m.ConsumerAddress)
	if response.StatusCode != http.StatusOK || (response.ProtoMajor == 2) != http2 {
		tb.Fatalf("%s %s", response.Status, response.Proto)
	}
	l := client.link.Load()
	l.stall(true)
	return l
}

// fillSocket writes more than fits the server's socket, so that it is in the middle of a write.
func (n *network) fillSocket(tb testing.TB, m mailbox) (accepted int) {
	tb.Helper()
	text := strings.Repeat("x", 900_000)
	for i := range 20 {
		if status := n.write(tb, m, fmt.Sprintf(`{"n":%d,"text":%q}`, i, text)); status != http.StatusCreated {
			break
		}
		accepted++
	}
	return accepted
}

func TestExitDoesNotWaitForStalledReaders(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "hold 300ms\nwrite_timeout 1m\nread_duration 1m")
	for _, connection := range plainConnections {
		m := n.create(t)
		defer n.stalledReader(t, m, connection.secure, connection.http2).reset()
		n.fillSocket(t, m)
	}
	start := time.Now()
	n.Signal(syscall.SIGTERM)
	select {
	case <-n.Done():
		if took := time.Since(start); took > promptly {
			t.Errorf("the exit has taken %v", took)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the process does not exit")
	}
}

func TestConsumersThatFightForAChannelHarmNobody(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "read_duration 3s")
	contested, quiet := n.create(t), n.create(t)
	reader := bufio.NewReader(open(t, n.producer, n.http+"/read/"+quiet.ConsumerAddress).Body)
	var fight sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		fight.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				response, err := n.producer.Get(n.http + "/read/" + contested.ConsumerAddress + "?after=")
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := bufio.NewReader(response.Body).ReadByte(); err == nil {
					t.Error("there is a message")
				}
				response.Body.Close()
			}
		})
	}
	for i := range 20 {
		start := time.Now()
		if status := n.write(t, quiet, fmt.Sprint(i)); status != http.StatusCreated {
			t.Fatalf("write: %d", status)
		}
		if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, fmt.Sprintf(`"body":%d}`, i)) {
			t.Fatalf("%q, %v", line, err)
		}
		if took := time.Since(start); took > promptly {
			t.Errorf("another channel's message has taken %v", took)
		}
	}
	n.Await("ten takeovers are in the log", func() bool { return strings.Count(n.Log(), `"reason":"taken_over"`) >= 10 })
	close(stop)
	fight.Wait()
}

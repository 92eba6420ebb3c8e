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

// promptly is the limit for anything that must happen at once. It allows for a busy machine.
const promptly = 3 * time.Second

func TestTakeoverFromAStalledReaderIsImmediate(t *testing.T) {
	t.Parallel()
	for name, connection := range plainConnections {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, "hold 300ms\nwrite_timeout 1m\nread_duration 1m\nin_flight 10000\nbuffer 10000")
			ch := n.create(t)
			stalled := n.stalledReader(t, ch, connection)
			defer stalled.reset()
			accepted := n.fillSocket(t, ch)

			start := time.Now()
			response := open(t, n.producer, n.http+"/read/"+ch.ConsumerAddress+"?after=")
			line, err := bufio.NewReader(response.Body).ReadString('\n')
			if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(line, `"n":0,`) {
				t.Errorf("%s %.100q %v", response.Status, line, err)
			}
			if took := time.Since(start); took > promptly {
				t.Errorf("the takeover took %v", took)
			}
			t.Logf("%d large messages were written to the stalled reader", accepted)
		})
	}
}

// fillSocket writes more than fits into the server's socket, so that the server is in the middle of a write. It returns
// how many messages the server has accepted.
func (n *network) fillSocket(tb testing.TB, ch channel) (accepted int) {
	tb.Helper()
	text := strings.Repeat("x", 900_000)
	for i := range 20 {
		if status := n.write(tb, ch, fmt.Sprintf(`{"n":%d,"text":%q}`, i, text)); status != http.StatusCreated {
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
		ch := n.create(t)
		defer n.stalledReader(t, ch, connection).reset()
		n.fillSocket(t, ch)
	}
	start := time.Now()
	n.Signal(syscall.SIGTERM)
	awaitExit(t, n.Server)
	if took := time.Since(start); took > promptly {
		t.Errorf("the exit took %v", took)
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
					t.Error("a message has arrived")
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
			t.Errorf("a message of another channel took %v", took)
		}
	}
	n.Await("the log has ten takeovers", func() bool { return strings.Count(n.Log(), `"reason":"taken_over"`) >= 10 })
	close(stop)
	fight.Wait()
}

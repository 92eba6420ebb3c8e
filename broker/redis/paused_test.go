package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// readerProcess makes the test binary a node: it subscribes to the consumer address of this variable, at the socket and with the
// key prefix that follow, and shows what it takes. It does what the lines of its standard input say.
const readerProcess = "MEGAPHONE_TEST_READER"

// runReader is what a readerProcess runs. It does not return.
func runReader(text string) {
	parts := strings.Split(text, " ")
	b, err := redis.New((&server{socket: parts[1]}).options(parts[2]))
	if err == nil {
		err = b.Start(context.Background())
	}
	var sub broker.Subscription
	if err == nil {
		sub, err = b.Subscribe(context.Background(), parts[0], broker.SubscribeOptions{Limits: faultLimits})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	orders := make(chan string)
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			orders <- lines.Text()
		}
	}()
	var last broker.EventID
	for {
		select {
		case <-sub.Ready():
			ms, _ := sub.Take(nil, 1<<20)
			for _, m := range ms {
				last = m.ID()
				fmt.Println(m.StreamID())
			}
		case order := <-orders:
			verb, address, _ := strings.Cut(order, " ")
			switch verb {
			case "publish": // to a full channel, and show the outcome
				go func() { fmt.Println(fill(b, address)) }()
			case "walk": // begin a publish to a topic, and do not go on
				fmt.Println(walk(b, address))
			case "act": // as if the channel were still its own
				sub.Received(1)
				sub.Settle(last)
				sub.End(broker.EndClean)
				fmt.Println("acted", sub.Err())
			}
		}
	}
}

// fill writes to a channel that has room for one message.
func fill(b *redis.Broker, producer string) error {
	l := faultLimits
	l.Buffer = 1
	m, err := broker.NewMessage("1", []byte("null"), "")
	if err == nil {
		err = b.Publish(context.Background(), producer, m, l)
	}
	return err
}

// walk begins a publish to a topic, and returns how many members have the message.
func walk(b *redis.Broker, topic string) int {
	m, err := broker.NewMessage("1", []byte("null"), "key")
	if err != nil {
		return -1
	}
	w, err := redis.BeginWalk(context.Background(), b, topic, m, topicLimits)
	if err != nil {
		return -1
	}
	return w.Visited()
}

// A nodeProcess is a readerProcess.
type nodeProcess struct {
	process *exec.Cmd
	in      io.Writer
	lines   *bufio.Scanner
}

func startNode(t *testing.T, s *server, prefix, consumer string) *nodeProcess {
	t.Helper()
	n := &nodeProcess{process: exec.Command(os.Args[0])}
	n.process.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", readerProcess, consumer, s.socket, prefix))
	out, err := n.process.StdoutPipe()
	if err == nil {
		n.in, err = n.process.StdinPipe()
	}
	if err == nil {
		err = n.process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.process.Process.Kill()
		_ = n.process.Wait()
	})
	n.lines = bufio.NewScanner(out)
	n.shows(t, "ready")
	return n
}

// shows checks the next line of the node's output.
func (n *nodeProcess) shows(t *testing.T, want string) {
	t.Helper()
	if n.lines.Scan(); n.lines.Text() != want {
		t.Fatalf("the node shows %q, want %q", n.lines.Text(), want)
	}
}

func (n *nodeProcess) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := n.process.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// TestAReaderWhoseNodeIsKilledGivesWay: the next plain reader gets the channel at once, and all that was not settled.
func TestAReaderWhoseNodeIsKilledGivesWay(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options(t.Name())
	b := open(t, o)
	a := create(t, b)
	node := startNode(t, s, o.KeyPrefix, a.Consumer)
	publish(t, b, a.Producer, "1")
	node.shows(t, "1")
	if _, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits}); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("a second reader gets the error %v", err)
	}
	_ = node.process.Process.Kill()
	_ = node.process.Wait()
	publish(t, b, a.Producer, "2")
	takes(t, subscribe(t, b, a.Consumer), "1", "2")
}

// TestAPausedNodeDoesNotActOnWhatItNoLongerOwns: it stands still for longer than every timeout, another node serves its channel
// meanwhile, and then it goes on as if nothing had happened.
func TestAPausedNodeDoesNotActOnWhatItNoLongerOwns(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options(t.Name())
	b := open(t, o)
	a, full := create(t, b), create(t, b)
	node := startNode(t, s, o.KeyPrefix, a.Consumer)
	publish(t, b, a.Producer, "1")
	publish(t, b, a.Producer, "2")
	node.shows(t, "1")
	node.shows(t, "2")
	if err := fill(b, full.Producer); err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(node.in, "publish", full.Producer)
	eventually(t, "its producer waits", func() bool { return b.Stats().HeldProducers == 1 })
	node.signal(t, syscall.SIGSTOP)
	next := awaitRead(t, "another node reads", b, a.Consumer)
	takes(t, next, "1", "2")
	reported(t, b, a.Consumer, 2)
	time.Sleep(time.Second) // so the time of its producer is over in Redis too
	takes(t, subscribe(t, b, full.Consumer), "1")
	reported(t, b, full.Consumer, 1)
	node.signal(t, syscall.SIGCONT)
	_, _ = fmt.Fprintln(node.in, "act")
	outcome, acted := "", ""
	for acted == "" || outcome == "" {
		if !node.lines.Scan() {
			t.Fatal("the node has ended")
		}
		if line := node.lines.Text(); strings.HasPrefix(line, "acted") {
			acted = line
		} else {
			outcome = line
		}
	}
	if outcome != broker.ErrTimeout.Error() && outcome != broker.ErrOutcomeUnknown.Error() {
		t.Errorf("its producer's outcome is %q, and no message was written", outcome)
	}
	if state, err := b.State(t.Context(), full.Consumer); err != nil || state.Pending != 0 || state.InFlight != 1 {
		t.Errorf("its producer's channel holds %+v: %v", state, err)
	}
	publish(t, b, a.Producer, "3")
	takes(t, next, "3")
	if state, err := b.State(t.Context(), a.Consumer); err != nil || !state.Connected || state.Pending+state.InFlight != 3 {
		t.Errorf("the channel is %+v: %v", state, err)
	}
	if err := next.Err(); err != nil {
		t.Errorf("the new read has ended: %v", err)
	}
}

// TestAllReadersOfANodeThatIsGoneAreFreed: there are more of them than one call looks at.
func TestAllReadersOfANodeThatIsGoneAreFreed(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	gone, b := open(t, through(s, p)), open(t, s.options("test:"))
	stays := subscribe(t, b, create(t, b).Consumer)
	for range 500 {
		subscribe(t, gone, create(t, b).Consumer)
	}
	if n := b.Stats().Readers; n != 501 {
		t.Fatalf("there are %d readers", n)
	}
	p.change(func() { p.cut = true })
	names, err := s.command(t, "KEYS", "test:*nodes").AsStrSlice()
	if err != nil || len(names) != 1 {
		t.Fatalf("the nodes are at %v: %v", names, err)
	}
	s.command(t, "DEL", names[0]) // as after ten seconds
	eventually(t, "only one reader is left", func() bool { return b.Stats().Readers == 1 })
	if err := stays.Err(); err != nil {
		t.Errorf("its read ends with %v", err)
	}
}

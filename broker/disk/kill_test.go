package disk

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestMain is the process that TestKill kills, if the environment says so.
func TestMain(m *testing.M) {
	if path := os.Getenv("MEGAPHONE_TEST_VICTIM"); path != "" {
		victim(path)
		return
	}
	os.Exit(m.Run())
}

// victim uses a Broker from several goroutines until it is killed, and writes to standard output what it does. Each line is
// written by one call, so a line is there as a whole, and a fact is there before what follows from it.
func victim(path string) {
	seed, _ := strconv.ParseUint(os.Getenv("MEGAPHONE_TEST_SEED"), 10, 64)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b := Open(Options{Path: path, segment: smallSegment, Logger: func() *slog.Logger { return logger }})
	ctx := context.Background()
	if err := b.Start(ctx); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("started")
	var all sync.WaitGroup
	for i := range uint64(3) {
		all.Go(func() {
			next := int(seed%1000*3+i) * 10_000
			l := newLoad(b, seed+i, &next, func(a act, done bool, consumer string, n int) {
				fmt.Printf("%c %v %s %d\n", a, done, consumer, n)
			})
			for l.step(ctx) {
			}
		})
	}
	all.Wait()
}

// TestKill kills a process that uses a Broker, at random moments, and looks at what is left. The next process goes on with
// it. MEGAPHONE_KILLS is how often; 500 take half a minute.
func TestKill(t *testing.T) {
	kills, err := strconv.Atoi(os.Getenv("MEGAPHONE_KILLS"))
	if err != nil {
		kills = 4
	}
	seed := testSeed(t)
	random := rand.New(rand.NewPCG(seed, 3))
	path := t.TempDir()
	var h facts
	seen := 0
	for i := range kills {
		if i%10 == 9 {
			path, h = t.TempDir(), nil // or else the history becomes long
		}
		h = append(h, runVictim(t, path, seed+uint64(i), time.Duration(random.IntN(30))*time.Millisecond)...)
		logger := slog.New(slog.NewTextHandler(t.Output(), nil))
		b := Open(Options{Path: path, segment: smallSegment, Logger: func() *slog.Logger { return logger }})
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen += h.check(t, b, 1, true)
		b.Close()
		if t.Failed() {
			t.Fatalf("after %d kills", i+1)
		}
	}
	t.Logf("%d kills, %d messages seen", kills, seen)
	if seen < kills {
		t.Errorf("only %d messages after %d kills", seen, kills)
	}
}

// runVictim runs a process, kills it some time after it has started, and returns what it has done.
func runVictim(t *testing.T, path string, seed uint64, after time.Duration) (h facts) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "MEGAPHONE_TEST_VICTIM="+path, fmt.Sprint("MEGAPHONE_TEST_SEED=", seed))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "started" {
		t.Fatalf("the process says %q", lines.Text())
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for lines.Scan() {
		var f fact
		if _, err := fmt.Sscanf(lines.Text(), "%c %t %s %d", &f.act, &f.done, &f.consumer, &f.n); err != nil {
			t.Fatalf("the line %q: %v", lines.Text(), err)
		}
		h = append(h, f)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the process has ended before it was killed: %v", cmd.ProcessState)
	}
	return h
}

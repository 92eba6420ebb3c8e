package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// A probe writes to a channel of its own and reads it. It is a process of its own, which goes before the one that reads for the
// members: what it measures is the server. In one process, the two would wait for each other in Go's scheduler.
type probe struct {
	Address     string
	Read, Write load.Request
	Duration    time.Duration
}

// newProbe returns a probe with a channel.
func (s *session) newProbe() (*probe, error) {
	cs, err := s.peer.channels(s.server.address, 1)
	if err != nil {
		return nil, err
	}
	return &probe{
		Address: s.server.address, Read: load.Get(cs[0].path, s.peer.headers["http"]...), Write: cs[0].post(body()),
	}, nil
}

// probing is set in the environment of a process that is a probe.
const probing = "MEGAPHONE_BENCH_PROBE"

// run writes about a thousand messages a second, each when the one before it has arrived. It returns how long each took until it
// had arrived and its writer had the reply.
func (p *probe) run(ctx context.Context, d time.Duration) (took []time.Duration, err error) {
	p.Duration = d
	task, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process := exec.CommandContext(ctx, self) //nolint:gosec // itself
	process.Env = append(os.Environ(), probing+"="+string(task))
	process.Stderr = os.Stderr
	reply, err := process.Output()
	if err != nil {
		return nil, fmt.Errorf("the process that measures: %w", err)
	}
	return took, json.Unmarshal(reply, &took)
}

// runProbe is what the process does that is a probe. It prints how long each message took.
func runProbe(task string) error {
	var p probe
	if err := json.Unmarshal([]byte(task), &p); err != nil {
		return err
	}
	runtime.LockOSThread() // only this thread goes first, and it is the one that measures
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20); err != nil {
		return fmt.Errorf("the thread that measures must go first, which needs root: %w", err)
	}
	took, err := p.measure()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

func (p *probe) measure() (took []time.Duration, err error) {
	var conns [2]*load.Conn
	for i := range conns {
		if conns[i], err = load.DialBlocking(p.Address); err != nil {
			return nil, err
		}
		defer func() { _ = conns[i].Close() }()
	}
	reader, writer := conns[0], conns[1]
	if err := reader.Open(p.Read); err != nil {
		return nil, err
	}
	write := repeat(p.Write, 1)
	for start := time.Now(); time.Since(start) < p.Duration; {
		pause := unix.NsecToTimespec(time.Millisecond.Nanoseconds())
		_ = unix.Nanosleep(&pause, nil)
		begun := time.Now()
		if _, err := write(writer); err != nil {
			return nil, err
		}
		if err := reader.Await(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

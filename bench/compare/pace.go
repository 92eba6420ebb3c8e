package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

// pace sends requests at a constant rate and does not wait for replies in between. It uses several connections in turn.
// At the end it fails unless every reply was a success.
func (s *session) pace(ctx context.Context, rate, total int, request func(i int) load.Request) error {
	const connections = 20
	conns := make([]*load.Conn, connections)
	for i := range conns {
		var err error
		if conns[i], err = s.dial(); err != nil {
			return err
		}
	}
	return paceOver(ctx, conns, rate, total, request)
}

// paceOver does what pace does, on these connections in turn.
func paceOver(ctx context.Context, conns []*load.Conn, rate, total int, request func(i int) load.Request) error {
	connections := len(conns)
	var replies sync.WaitGroup
	faults := make(chan error, connections)
	for i := range conns {
		replies.Go(func() {
			for range (total - i + connections - 1) / connections {
				status, body, err := conns[i].Reply()
				if err == nil && status/100 != 2 {
					err = fmt.Errorf("status %d: %s", status, body)
				}
				if err != nil {
					faults <- err
					return
				}
			}
		})
	}
	// An idle Go program rounds its timers to a millisecond, so the kernel does the waiting.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	interval := time.Second / time.Duration(rate)
	next := time.Now()
	for i := range total {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := request(i)
		if _, err := conns[i%connections].Write(r); err != nil {
			return err
		}
		next = next.Add(interval)
		if pause := time.Until(next); pause > 0 {
			ts := unix.NsecToTimespec(pause.Nanoseconds())
			if err := unix.Nanosleep(&ts, nil); err != nil && err != unix.EINTR {
				return err
			}
		}
	}
	replies.Wait()
	select {
	case err := <-faults:
		return err
	default:
		return nil
	}
}

package readable

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A Watch is a watched socket. The zero value watches nothing.
type Watch struct {
	poller            *poller
	place, generation int32
}

// Start watches a socket until it can be read. It fails if the kernel refuses, for example for lack of memory. Call
// Stop before the socket is closed, or before others use it.
func Start(socket syscall.RawConn, waiter Waiter) (Watch, error) {
	p, err := thePoller()
	if err != nil {
		return Watch{}, err
	}
	w := p.enter(waiter)
	if err := p.control(socket, unix.EPOLL_CTL_ADD, w); err != nil {
		p.leave(w)
		return Watch{}, err
	}
	return w, nil
}

// Again watches the socket once more, after Readable was called.
func (w Watch) Again(socket syscall.RawConn) error {
	return w.poller.control(socket, unix.EPOLL_CTL_MOD, w)
}

// Stop ends the watch. It does not wait for a call of Readable that has already begun.
func (w Watch) Stop(socket syscall.RawConn) {
	if w.poller != nil && w.poller.leave(w) {
		_ = w.poller.control(socket, unix.EPOLL_CTL_DEL, w) // fails if the socket was closed: then the kernel has removed it
	}
}

// Read reads what is there, without waiting. It reads at least one byte, or fails with [ErrNothing], [io.EOF], or the
// connection's error.
func Read(socket syscall.RawConn, p []byte) (n int, err error) {
	closed := socket.Read(func(fd uintptr) bool {
		for {
			if n, err = unix.Read(int(fd), p); !errors.Is(err, unix.EINTR) {
				return true
			}
		}
	})
	switch {
	case closed != nil:
		return 0, closed
	case errors.Is(err, unix.EAGAIN):
		return 0, ErrNothing
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

var (
	theMu sync.Mutex
	the   *poller
)

// thePoller returns the poller of the process. It makes the poller at the first call that succeeds. The poller never
// ends.
func thePoller() (*poller, error) {
	theMu.Lock()
	defer theMu.Unlock()
	if the == nil {
		p, err := newPoller()
		if err != nil {
			return nil, err // a later call may get a file descriptor
		}
		the = p
	}
	return the, nil
}

// A poller waits for all sockets. It has an epoll instance of its own. The sockets stay in that of Go's runtime too.
type poller struct {
	fd  int
	raw syscall.RawConn // of the epoll instance

	mu    sync.Mutex
	slots []slot
	free  []int32
}

// A slot is a waiter's place. Several waiters can have the same place one after the other, and the generation tells
// them apart: the kernel may have reported the last waiter's socket before that waiter left.
type slot struct {
	waiter     Waiter
	generation int32
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// The file descriptor is non-blocking, so Go's runtime waits for it as for a socket, and no thread has to wait.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetReadDeadline(time.Time{}) // fails where the runtime cannot wait for it
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	p := &poller{fd: fd, raw: raw}
	go p.run() // guarded for each waiter
	return p, nil
}

// run calls the waiters whose sockets can be read.
func (p *poller) run() {
	events := make([]unix.EpollEvent, 128)
	for {
		var n int
		var err error
		waited := p.raw.Read(func(uintptr) bool {
			n, err = wait(p.fd, events)
			return n != 0 // otherwise Go's runtime waits until there is something
		})
		if waited != nil || err != nil {
			time.Sleep(retry)
			continue
		}
		for _, e := range events[:n] {
			p.call(Watch{p, e.Fd, e.Pad})
		}
	}
}

// call calls the waiter of a watch. A waiter that panics is not called again, and the others are.
func (p *poller) call(w Watch) {
	defer guard.Recover(guard.Connection)
	if waiter := p.waiter(w); waiter != nil {
		waiter.Readable()
	}
}

// wait returns the events that are there, without waiting.
func wait(fd int, events []unix.EpollEvent) (int, error) {
	for {
		if n, err := unix.EpollWait(fd, events, 0); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// retry is how long to wait after an error that the kernel should never return.
const retry = 100 * time.Millisecond

// waiter returns the waiter of a watch, or nil if the watch has ended.
func (p *poller) waiter(w Watch) Waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.slots[w.place]; s.generation == w.generation {
		return s.waiter
	}
	return nil
}

func (p *poller) enter(waiter Waiter) Watch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		p.free = append(p.free, int32(len(p.slots))) //nolint:gosec // there are only as many as file descriptors
		p.slots = append(p.slots, slot{})
	}
	place := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	s := &p.slots[place]
	s.waiter = waiter
	return Watch{p, place, s.generation}
}

// leave frees the place of a watch. It reports false if the watch no longer had a place.
func (p *poller) leave(w Watch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[w.place]
	if s.generation != w.generation || s.waiter == nil {
		return false
	}
	s.waiter = nil
	s.generation++
	p.free = append(p.free, w.place)
	return true
}

// control tells the kernel what to do with a socket. The socket cannot be closed meanwhile.
func (p *poller) control(socket syscall.RawConn, op int, w Watch) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: w.place, Pad: w.generation}
	var failed error
	err := socket.Control(func(fd uintptr) {
		failed = os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, op, int(fd), &event))
	})
	if err != nil {
		return err
	}
	return failed
}

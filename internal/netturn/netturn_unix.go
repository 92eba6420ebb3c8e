//go:build unix

package netturn

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
)

// A gate is a pipe. Whoever waits until it can be read goes on only after the scheduler has asked the network.
type gate struct {
	reader, writer *os.File
	raw            syscall.RawConn // of the reader

	// These fields belong to the one call of pass that runs. pass is a field because each call would allocate a closure.
	pass    func(fd uintptr) (passed bool)
	written bool // there is a byte in the pipe
	buffer  [1]byte
}

// theGate is the gate of the process. It is made at the first call that succeeds, and stays.
var theGate atomic.Pointer[gate]

func newGate() (*gate, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	g := &gate{reader: r, writer: w}
	if g.raw, err = r.SyscallConn(); err != nil {
		g.close()
		return nil, err
	}
	g.pass = func(fd uintptr) bool {
		if !g.written {
			_, err := g.writer.Write(g.buffer[:])
			g.written = err == nil
			return !g.written // waits for the byte, which is there already: the scheduler does not know yet
		}
		_, err := syscall.Read(int(fd), g.buffer[:])
		g.written = errors.Is(err, syscall.EAGAIN)
		return !g.written
	}
	return g, nil
}

func (g *gate) close() {
	_ = g.reader.Close()
	_ = g.writer.Close()
}

// give reports whether the network has had its turn.
func give() bool {
	g := theGate.Load()
	if g == nil {
		var err error
		if g, err = newGate(); err != nil {
			return false // a later call may get a file descriptor
		}
		if !theGate.CompareAndSwap(nil, g) {
			g.close()
			g = theGate.Load()
		}
	}
	return g.give()
}

func (g *gate) give() bool { return g.raw.Read(g.pass) == nil }

package socket

import (
	"net"
	"syscall"
	"time"
)

const (
	// maxUnsent is how many bytes the kernel accepts beyond what it has sent. Its own limit is some megabytes, and a third
	// of that must be free before it accepts more. That is a lot for a slow peer within a timeout, and for a server with
	// many slow peers.
	maxUnsent = 128 << 10
	// lookAgain is how long AwaitRoom waits between two looks.
	lookAgain = 10 * time.Millisecond
	// MaxExitWrite is how long clients may take to receive the last bytes when the process exits.
	MaxExitWrite = 250 * time.Millisecond
)

// LimitUnsent makes the kernel accept no more bytes for a connection than it will send soon, where the system can do
// that.
func LimitUnsent(conn net.Conn) {
	if raw := below(conn); raw != nil {
		limitUnsent(raw)
	}
}

// AwaitRoom waits until the kernel accepts bytes for a connection, and then reports true. It reports false if the peer
// takes nothing for the timeout. The process closes exit when it exits: the timeout then starts again, and is
// MaxExitWrite at most. Where the system does not report whether there is room, AwaitRoom reports true at once.
func AwaitRoom(conn net.Conn, timeout time.Duration, exit <-chan struct{}) bool {
	raw := below(conn)
	if raw == nil {
		return true
	}
	state, began := look(raw), time.Now()
	if state.room {
		return true
	}
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for !state.room && time.Since(began) < timeout {
		select {
		case <-ticker.C:
		case <-exit:
			exit, timeout, began = nil, min(timeout, MaxExitWrite), time.Now()
		}
		before := state
		if state = look(raw); state.queued < before.queued {
			began = time.Now()
		}
	}
	return state.room
}

// HasRoom is AwaitRoom without the waiting.
func HasRoom(conn net.Conn) bool {
	raw := below(conn)
	return raw == nil || look(raw).room
}

// A state is what the system reports of a socket.
type state struct {
	room   bool // the kernel accepts something at once, or there is an error
	queued int  // bytes that were written and that the peer has not taken
}

// below returns the socket below a connection, for example below TLS, or nil if it finds none.
func below(conn net.Conn) syscall.RawConn {
	for {
		if raw := Raw(conn); raw != nil {
			return raw
		}
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = outer.NetConn()
	}
}

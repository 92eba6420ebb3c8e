package socket

import (
	"net"
	"syscall"
	"time"
)

const (
	// maxUnsent is how many bytes the kernel takes beyond what it has sent. Its own limit is some megabytes, of which a
	// third must be free before it takes more: much for a slow peer within a timeout, and for a server with many of them.
	maxUnsent = 128 << 10
	// lookAgain is how long AwaitRoom waits between two looks.
	lookAgain = 10 * time.Millisecond
	// MaxFarewell is how long clients may take for what they are sent last when the process exits.
	MaxFarewell = 250 * time.Millisecond
)

// LimitUnsent lets the kernel take no more of what is written to a connection than it soon sends, where it can.
func LimitUnsent(conn net.Conn) {
	if raw := below(conn); raw != nil {
		limitUnsent(raw)
	}
}

// AwaitRoom waits until the kernel takes what is written to a connection, and reports whether it does: not if the peer takes
// nothing for a timeout, or the process exits, which closes exit. Where the system does not tell, it reports true.
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
			exit, timeout, began = nil, min(timeout, MaxFarewell), time.Now()
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

// A state is what the system tells of a socket.
type state struct {
	room   bool // it takes something at once, or an error is there
	queued int  // what was written and the peer has not taken
}

// below returns the socket below a connection, such as that of TLS, or nil.
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

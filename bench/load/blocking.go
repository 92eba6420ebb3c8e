package load

import (
	"bytes"
	"net"
	"os"
	"time"
)

// DialBlocking connects to a server as [Dial] does. But calls of the connection block their thread and do not go through Go's
// poller. So a goroutine that is locked to its thread waits for the server alone, whatever else this process has to do.
func DialBlocking(address string) (*Conn, error) {
	conn, err := Dial(address)
	if err != nil {
		return nil, err
	}
	file, err := conn.Conn.(*net.TCPConn).File()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	file.Fd() // makes it block
	conn.Conn = blocking{conn.Conn, file}
	return conn, nil
}

// blocking is a connection whose calls block.
type blocking struct {
	net.Conn
	file *os.File // the same connection
}

func (b blocking) Read(p []byte) (int, error)      { return b.file.Read(p) }
func (b blocking) Write(p []byte) (int, error)     { return b.file.Write(p) }
func (blocking) SetReadDeadline(_ time.Time) error { return nil }

func (b blocking) Close() error {
	_ = b.file.Close()
	return b.Conn.Close()
}

// Await reads a stream that Open has opened until a message arrives. There may be only one that was not awaited.
func (c *Conn) Await() error {
	for bytes.IndexByte(c.buffer[:c.read], Mark) < 0 {
		if err := c.more(); err != nil {
			return err
		}
	}
	c.read = 0
	return nil
}

package transport

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// readSlowly reads size bytes. It takes a quarter of the timeout for each 32 KiB.
func (c *client) readSlowly(t *testing.T, size int) {
	t.Helper()
	for piece := make([]byte, maxPiece/2); size > 0; {
		time.Sleep(timeout / 4)
		n, err := c.Read(piece[:min(size, len(piece))])
		if err != nil {
			t.Fatalf("reading failed %d bytes before the end: %v", size, err)
		}
		size -= n
	}
}

// largeHeader is how many bytes the header of a text frame of at least 64 KiB has.
const largeHeader = 10

func TestClientThatTakesALargeMessageSlowlyHasTimeToAnswerAPing(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		start := time.Now()
		if err := s.Heartbeat(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		const size = 1 << 20
		s.Append(uuid.UUID{}, line(size))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		time.Sleep(time.Until(start.Add(timeout - 1)))
		ping := c.readPing(t)
		c.readSlowly(t, largeHeader+size-1)
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		time.Sleep(timeout - 1)
		c.writeFrame(t, opPong, ping)
		synctest.Wait()
		if err := s.Heartbeat(); err != nil {
			t.Fatal(err)
		}
		if next := c.readPing(t); next == ping {
			t.Errorf("the next ping is %q again", next)
		}
	})
}

func TestPingIsAnsweredAfterAMessageToASlowClient(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, acks <-chan string) {
		const size = 1 << 20
		s.Append(uuid.UUID{}, line(size))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		synctest.Wait()
		c.writeFrame(t, opPing, "hello")
		c.writeFrame(t, opText, `{"ack":"1"}`)
		if got := <-acks; got != "1" {
			t.Errorf("got an acknowledgement of %q, want one of %q", got, "1")
		}
		c.readSlowly(t, largeHeader+size-1)
		c.expectFrame(t, opPong, "hello")
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	})
}

func TestPingIsAnsweredWhenTheClientTakesTheAnswerLate(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		c.writeFrame(t, opPing, "hello")
		time.Sleep(timeout - 1)
		s.Append(uuid.UUID{}, []byte("{}\n"))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		c.expectFrame(t, opPong, "hello")
		c.expectFrame(t, opText, "{}")
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	})
}

func TestAnswerThatTheClientDoesNotTakeEndsTheConnection(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		start := time.Now()
		c.writeFrame(t, opPing, "hello")
		<-s.Gone()
		if took := time.Since(start); took != timeout {
			t.Errorf("the client was given up after %v, want %v", took, timeout)
		}
		s.Append(uuid.UUID{}, []byte("{}\n"))
		if err := s.Flush(); err == nil {
			t.Error("a message was written after half a frame")
		}
	})
}

func TestPingsOfAStalledClientTakeNoMemory(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		const size, pings = 100 << 10, 1000
		flushed := make(chan error, 1)
		go func() {
			s.Append(uuid.UUID{}, line(size))
			err := s.Flush()
			s.Append(uuid.UUID{}, []byte("{}\n"))
			flushed <- errors.Join(err, s.Flush())
		}()
		synctest.Wait()
		for i := range pings {
			c.writeFrame(t, opPing, fmt.Sprintf("%0125d", i))
		}
		c.readSlowly(t, largeHeader+size-1)
		for i := range maxAnswers {
			c.expectFrame(t, opPong, fmt.Sprintf("%0125d", i))
		}
		c.expectFrame(t, opText, "{}")
		c.expectFrame(t, opPong, fmt.Sprintf("%0125d", pings-1))
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		c.writeFrame(t, opPing, "again")
		c.expectFrame(t, opPong, "again")
	})
}

func TestClientThatPingsAllTheTimeDoesNotDelayItsMessages(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		const messages = 100
		ended := make(chan struct{})
		go func() { // sends pings as fast as the server takes them
			defer close(ended)
			ping := []byte{0x80 | opPing, 0x80, 0, 0, 0, 0}
			for {
				if _, err := c.Write(ping); err != nil {
					return
				}
			}
		}()
		flushed := make(chan error, 1)
		go func() {
			for range messages {
				s.Append(uuid.UUID{}, []byte("{}\n"))
				if err := s.Flush(); err != nil {
					flushed <- err
					return
				}
			}
			flushed <- nil
		}()
		for got := 0; got < messages; {
			if opcode, _ := c.readFrame(t); opcode == opText {
				got++
			}
		}
		go func() { _, _ = io.Copy(io.Discard, c) }() // answers may follow the last message
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		c.Close()
		<-ended
	})
}

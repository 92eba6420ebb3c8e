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

// readSlowly reads so many bytes, each 32 KiB of them in a quarter of the timeout.
func (c *client) readSlowly(t *testing.T, size int) {
	t.Helper()
	for piece := make([]byte, maxPiece/2); size > 0; {
		time.Sleep(timeout / 4)
		n, err := c.Read(piece[:min(size, len(piece))])
		if err != nil {
			t.Fatalf("%d bytes before the end: %v", size, err)
		}
		size -= n
	}
}

// A text frame of at least 64 KiB has a header of so many bytes.
const largeHeader = 10

func TestAClientThatTakesManyMessagesSlowlyHasTimeToAnswerAPing(t *testing.T) {
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
		opcode, ping := c.frame(t)
		if opcode != opPing {
			t.Fatalf("frame %d %q", opcode, ping)
		}
		c.readSlowly(t, largeHeader+size-1)
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		time.Sleep(timeout - 1)
		c.say(t, opPong, ping)
		synctest.Wait()
		if err := s.Heartbeat(); err != nil {
			t.Fatal(err)
		}
		if opcode, next := c.frame(t); opcode != opPing || next == ping {
			t.Errorf("frame %d %q", opcode, next)
		}
	})
}

func TestAPingIsAnsweredBehindWhatASlowClientIsSent(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, acks <-chan string) {
		const size = 1 << 20
		s.Append(uuid.UUID{}, line(size))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		synctest.Wait()
		c.say(t, opPing, "hello")
		c.say(t, opText, `{"ack":"1"}`)
		if got := <-acks; got != "1" {
			t.Errorf("ack %q", got)
		}
		c.readSlowly(t, largeHeader+size-1)
		if opcode, text := c.frame(t); opcode != opPong || text != "hello" {
			t.Errorf("frame %d %q for a ping", opcode, text)
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	})
}

func TestAPingIsAnsweredWhenTheClientTakesItLate(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		c.say(t, opPing, "hello")
		time.Sleep(timeout - 1)
		s.Append(uuid.UUID{}, []byte("{}\n"))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush() }()
		if opcode, text := c.frame(t); opcode != opPong || text != "hello" {
			t.Errorf("frame %d %q for a ping", opcode, text)
		}
		if opcode, text := c.frame(t); opcode != opText || text != "{}" {
			t.Errorf("frame %d %q", opcode, text)
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	})
}

func TestAnAnswerThatIsNotTakenEndsTheConnection(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		start := time.Now()
		c.say(t, opPing, "hello")
		<-s.Gone()
		if took := time.Since(start); took != timeout {
			t.Errorf("given up after %v", took)
		}
		s.Append(uuid.UUID{}, []byte("{}\n"))
		if err := s.Flush(); err == nil {
			t.Error("a message was written behind half a frame")
		}
	})
}

func TestPingsOfAClientThatTakesNothingTakeNoMemory(t *testing.T) {
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
			c.say(t, opPing, fmt.Sprintf("%0125d", i))
		}
		c.readSlowly(t, largeHeader+size-1)
		for i := range maxAnswers {
			if opcode, text := c.frame(t); opcode != opPong || text != fmt.Sprintf("%0125d", i) {
				t.Fatalf("frame %d %q for ping %d", opcode, text, i)
			}
		}
		if opcode, text := c.frame(t); opcode != opText || text != "{}" {
			t.Errorf("frame %d %q behind the answers", opcode, text)
		}
		if opcode, text := c.frame(t); opcode != opPong || text != fmt.Sprintf("%0125d", pings-1) {
			t.Errorf("frame %d %q for the newest ping", opcode, text)
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		c.say(t, opPing, "again")
		if opcode, text := c.frame(t); opcode != opPong || text != "again" {
			t.Errorf("frame %d %q for a ping", opcode, text)
		}
	})
}

func TestAClientThatPingsAllTheTimeDoesNotHoldUpItsMessages(t *testing.T) {
	testWebSocket(t, func(t *testing.T, s *WebSocket, c *client, _ <-chan string) {
		const messages = 100
		ended := make(chan struct{})
		go func() { // as fast as they are taken
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
			if opcode, _ := c.frame(t); opcode == opText {
				got++
			}
		}
		go func() { _, _ = io.Copy(io.Discard, c) }() // there may be answers behind the last
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		c.Close()
		<-ended
	})
}

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestManyWebSockets lets clients send frames in random pieces while the server sends them messages and pings. In the
// end, either the server or the client ends the connection.
func TestManyWebSockets(t *testing.T) {
	const clients, messages = 12, 150
	overNetworks(t, func(t *testing.T, connect func(string) *farClient) {
		var all sync.WaitGroup
		for n := range clients {
			c, random := connect(""), rand.New(rand.NewPCG(3, uint64(n)))
			stop := make(chan struct{})
			serverEnds := n%2 == 0
			var ids []string
			var text strings.Builder
			for i := range messages {
				ids = append(ids, fmt.Sprint(i))
				switch random.IntN(3) {
				case 0:
					whole := fmt.Sprintf(`{"ack":"%d"}`, i)
					cut := random.IntN(len(whole))
					text.WriteString(sent(opText, whole[:cut]) + sent(final|opPing, "p") + sent(final|opContinuation, whole[cut:]))
				case 1:
					text.WriteString(sent(final|opPong, "x"))
					fallthrough
				default:
					text.WriteString(ack(ids[i]))
				}
			}
			var writing sync.Mutex // held while the client writes
			all.Go(func() {        // the client sends
				for rest := text.String(); rest != ""; {
					size := min(len(rest), 1+random.IntN(100))
					writing.Lock()
					_, err := io.WriteString(c, rest[:size])
					writing.Unlock()
					if err != nil {
						t.Error(err)
						return
					}
					rest = rest[size:]
					if random.IntN(50) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				c.expectAcks(t, ids...)
				if serverEnds {
					close(stop)
					return
				}
				if _, err := io.WriteString(c, sent(final|opClose, "\x03\xe8")); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() { // the server sends
				for sent := 0; ; sent++ {
					select {
					case <-stop:
						c.socket.End(GoingAway)
						return
					case <-c.socket.Gone():
						c.socket.End(Broken)
						return
					default:
					}
					c.socket.Append(uuid.UUID{}, []byte("{}\n"))
					if err := errors.Join(c.socket.Flush(), c.socket.Heartbeat()); err != nil && !errors.Is(err, errClosing) && !isClosed(c.socket.Gone()) {
						t.Error(err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
			all.Go(func() { // the client receives
				for {
					opcode, text, err := c.tryReadFrame()
					if err != nil {
						t.Error(err)
						return
					}
					if opcode != opClose {
						continue
					}
					if got := binary.BigEndian.Uint16([]byte(text)); got != 1000 && got != 1001 {
						t.Errorf("the close code is %d", got)
					}
					if serverEnds {
						if _, err := io.WriteString(c, sent(final|opClose, text[:2])); err != nil {
							t.Error(err)
						}
					}
					if rest, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) || len(rest) > 0 {
						t.Errorf("got %q, %v at the end of the connection", rest, err)
					}
					return
				}
			})
		}
		all.Wait()
	})
}

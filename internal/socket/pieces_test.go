package socket

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// randomPieces returns pieces of all sizes, and the same bytes in one. There may be more pieces than a system takes at
// once.
func randomPieces(random *rand.Rand) (pieces [][]byte, all []byte) {
	for range []int{0, 1, 3, 20, 2 * 1024}[random.IntN(5)] {
		piece := make([]byte, []int{1, 10, 500, 20_000}[random.IntN(4)])
		for i := range piece {
			piece[i] = byte(random.Uint32())
		}
		pieces, all = append(pieces, piece), append(all, piece...)
	}
	return pieces, all
}

// The client is slow, so the kernel takes only some of the pieces, or half of one. All pieces arrive in order, and
// their content does not change.
func TestWritePieces(t *testing.T) {
	near, far := socketPair(t)
	random := rand.New(rand.NewPCG(1, 2))
	socket := &deadlineConn{Conn: near, t: t}
	for name, w := range map[string]*Writer{"a socket": {conn: socket, nonblocking: newNonblocking(near)}, "something else": {conn: socket}} {
		for range 20 {
			pieces, all := randomPieces(random)
			before := w.Written()
			received := make(chan []byte, 1)
			go func() {
				got, slow := []byte{}, make([]byte, 3000)
				for len(got) < len(all) {
					n, err := far.Read(slow)
					if got = append(got, slow[:n]...); err != nil {
						t.Error(err)
						break
					}
				}
				received <- got
			}()
			if err := w.WritePieces(slices.Clone(pieces), timeout); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := <-received; !bytes.Equal(got, all) || !bytes.Equal(bytes.Join(pieces, nil), all) {
				t.Fatalf("%s: %d pieces with %d bytes were written, and %d bytes arrived", name, len(pieces), len(all), len(got))
			}
			if n := w.Written() - before; n != uint64(len(all)) {
				t.Errorf("%s: Written counts %d of %d bytes", name, n, len(all))
			}
			if !socket.deadline.IsZero() {
				t.Errorf("%s: a deadline is left", name)
			}
		}
	}
}

func TestWritePiecesToAStalledClient(t *testing.T) {
	near, far := socketPair(t)
	w := NewWriter(near)
	pieces := func() [][]byte { return [][]byte{make([]byte, 10), make([]byte, 4*maxPiece), make([]byte, 10)} }
	if err := w.WritePieces(pieces(), timeout); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client takes nothing, and the error is %v", err)
	}
	held := w.Written()
	if held == 0 || held >= 4*maxPiece {
		t.Errorf("Written counts %d bytes", held)
	}
	far.Close()
	if err := w.WritePieces(pieces(), timeout); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client is gone, and the error is %v", err)
	}
}

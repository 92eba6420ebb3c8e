package socket

import "time"

// WritePieces writes pieces one after the other, as if they were one for [Writer.Write]. What the kernel takes at once, which
// nearly always is all, it is given at once, so that they need not be copied together for that.
func (w *Writer) WritePieces(pieces [][]byte, timeout time.Duration) error {
	if w.eager != nil {
		n, err := w.eager.WritePieces(pieces)
		w.written.Add(uint64(n)) //nolint:gosec // not negative
		if err != nil {
			return err
		}
		pieces = after(pieces, n)
	}
	for _, p := range pieces {
		if err := w.Write(p, timeout); err != nil {
			return err
		}
	}
	return nil
}

// after returns what comes after the first n bytes of pieces. It may change these.
func after(pieces [][]byte, n int) [][]byte {
	for len(pieces) > 0 && n >= len(pieces[0]) {
		n -= len(pieces[0])
		pieces = pieces[1:]
	}
	if n > 0 {
		pieces[0] = pieces[0][n:]
	}
	return pieces
}

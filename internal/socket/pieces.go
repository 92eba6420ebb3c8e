package socket

import "time"

// WritePieces writes pieces, none of which may be empty, as [Writer.Write] does with what they are together. So they need not be
// copied for that: the kernel is given all at once. What it has not taken then follows piece by piece.
func (w *Writer) WritePieces(pieces [][]byte, timeout time.Duration) error {
	if w.eager != nil && len(pieces) > 0 {
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

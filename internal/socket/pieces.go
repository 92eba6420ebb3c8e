package socket

import "time"

// WritePieces writes pieces as [Writer.Write] would write their concatenation, but nobody has to copy them together. No
// piece may be empty. The kernel gets all pieces at once. What it does not take then follows piece by piece.
func (w *Writer) WritePieces(pieces [][]byte, timeout time.Duration) error {
	if w.nonblocking != nil && len(pieces) > 0 {
		n, err := w.nonblocking.WritePieces(pieces)
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

// after returns what follows the first n bytes of pieces. It may change pieces.
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

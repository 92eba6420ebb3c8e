package command

import (
	"os"

	"golang.org/x/term"
)

// A size is how many columns and rows a terminal has.
type size struct{ width, height int }

// terminalSize returns the size of an input or output that is a terminal. It reports false if it is not one.
func terminalSize(file any) (size, bool) {
	f, ok := file.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return size{}, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return size{80, 24}, true
	}
	return size{width, height}, true
}

// isTerminal reports whether an input or output is a terminal.
func isTerminal(file any) bool {
	_, ok := terminalSize(file)
	return ok
}

// Sequences that control a terminal.
const (
	toTop     = "\x1b[H"
	clearLine = "\x1b[K" // from the cursor to the end of the line
	clearRest = "\x1b[J" // from the cursor to the end of the screen
)

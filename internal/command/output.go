package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// newTable returns a writer that aligns columns, which a tab separates. The caller must call Flush.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// printJSON prints a value as one line of JSON.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// printLine prints JSON that a server has sent, as one line.
func printLine(w io.Writer, reply []byte) error {
	_, err := fmt.Fprintf(w, "%s\n", bytes.TrimSpace(reply))
	return err
}

// printable escapes control characters and all others that [unicode.IsPrint] rejects. So text from a server cannot
// control the terminal.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// since says how long ago a time was.
func since(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return max(0, time.Since(*t)).Round(time.Second).String()
}

// until says how far away a time is.
func until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return "in " + max(0, time.Until(*t)).Round(time.Second).String()
}

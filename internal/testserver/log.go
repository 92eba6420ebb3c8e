package testserver

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// A Log collects what is logged: the output of a process, or of a logger. Its zero value is empty. Any number of goroutines may use it.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Logger returns a logger that writes to the log.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// excerpt returns the last lines of a server's log, and what is worse than a warning in the others. Some servers reload a thousand
// times.
func excerpt(log string) string {
	const last = 200
	var kept strings.Builder
	lines := strings.SplitAfter(log, "\n")
	for i, line := range lines {
		if i >= len(lines)-last || !strings.Contains(line, `"level":"info"`) && !strings.Contains(line, `"level":"warn"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

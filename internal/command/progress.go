package command

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

const (
	// progressAfter is how long a command may take before it shows how far it has come.
	progressAfter = time.Second
	// progressInterval is how often it does then.
	progressInterval = 200 * time.Millisecond
)

// showInputProgress is [showProgress] for a command that reads its input. It shows nothing while somebody types that.
func showInputProgress(cmd *cobra.Command, text func() string) (stop func()) {
	if isTerminal(cmd.InOrStdin()) {
		return func() {}
	}
	return showProgress(cmd, text)
}

// showProgress shows on standard error how far a command has come, once it takes a while. It shows nothing if that is not a
// terminal. text says how far, and is called in another goroutine. The caller must call stop before it prints anything; stop
// may be called again.
func showProgress(cmd *cobra.Command, text func() string) (stop func()) {
	w := cmd.ErrOrStderr()
	if !isTerminal(w) {
		return func() {}
	}
	return progressOn(w, text)
}

// progressOn does the work of showProgress, on a terminal. The line is gone when stop has returned.
func progressOn(w io.Writer, text func() string) (stop func()) {
	begun, end, ended := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(progressAfter)
		defer timer.Stop()
		shown := false
		for {
			select {
			case <-timer.C:
				timer.Reset(progressInterval)
			case <-end:
				if shown {
					_, _ = io.WriteString(w, "\r"+clearLine)
				}
				return
			}
			shown = true
			fmt.Fprintf(w, "\r%s, %v"+clearLine, printable(text()), time.Since(begun).Truncate(time.Second))
		}
	}()
	stopped := false
	return func() {
		if !stopped {
			stopped = true
			close(end)
			<-ended
		}
	}
}

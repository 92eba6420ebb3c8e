package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

// A view shows something of a server. rows is how many rows a terminal has room for; 0 means that there is no limit.
type view func(cmd *cobra.Command, out io.Writer, rows int) error

// watched adds the flags --watch and --interval to a command that shows a view, and makes it show the view.
func watched(cmd *cobra.Command, show view) {
	cmd.Flags().Bool("watch", false, "Show it again and again until you interrupt it: on a terminal in place, else one after the other")
	cmd.Flags().String("interval", "2s", "With --watch: pause between two looks")
	_ = cmd.RegisterFlagCompletionFunc("interval", cobra.NoFileCompletions)
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		interval, err := watchInterval(cmd)
		if err != nil {
			return err
		}
		if !flag(cmd.Flags().GetBool, "watch") {
			return show(cmd, cmd.OutOrStdout(), 0)
		}
		w := &watch{interval: interval, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr()}
		if w.plain = flag(cmd.Flags().GetBool, "json"); !w.plain {
			w.screen = func() (size, bool) { return terminalSize(w.out) }
		}
		return w.run(cmd.Context(), func(out io.Writer, rows int) error { return show(cmd, out, rows) })
	})
}

// watchInterval returns the interval of --interval.
func watchInterval(cmd *cobra.Command) (time.Duration, error) {
	value := flag(cmd.Flags().GetString, "interval")
	if cmd.Flags().Changed("interval") && !flag(cmd.Flags().GetBool, "watch") {
		return 0, errors.New("--interval needs --watch")
	}
	interval, err := caddy.ParseDuration(value)
	if err != nil || interval < 100*time.Millisecond {
		return 0, fmt.Errorf("--interval %q is not a valid duration of at least 100ms: use for example 500ms, 2s or 1m", value)
	}
	return interval, nil
}

// A watch shows something again and again.
type watch struct {
	interval  time.Duration
	out, errs io.Writer
	plain     bool                // no empty line between two looks
	screen    func() (size, bool) // the terminal that out is; nil if it is used like a file

	last   []byte    // what was shown last
	lastAt time.Time // when
	lost   error     // why there is nothing newer
	drawn  bool      // on the screen
}

// run shows what show writes until ctx ends. If show fails the first time, run returns its error. Later, it says so and goes on.
func (w *watch) run(ctx context.Context, show func(out io.Writer, rows int) error) error {
	for {
		text, lost := w.look(ctx, show)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // which is how a watch ends
		case lost != nil && w.lastAt.IsZero():
			return lost
		}
		if err := w.present(text, lost); err != nil {
			return err
		}
		select {
		case <-time.After(w.interval):
		case <-ctx.Done():
			return nil
		}
	}
}

// slowLook is how long a look may take before the server counts as lost.
const slowLook = 5 * time.Second

// look returns what show writes. If that takes long, it says so meanwhile.
func (w *watch) look(ctx context.Context, show func(out io.Writer, rows int) error) (text []byte, err error) {
	terminal, _ := w.terminal()
	var out bytes.Buffer
	shown := make(chan error, 1)
	go func() { shown <- show(&out, max(0, terminal.height-frameRows)) }()
	for slow := time.NewTicker(slowLook); ; {
		select {
		case err = <-shown:
			slow.Stop()
			return out.Bytes(), err
		case <-ctx.Done():
			slow.Stop()
			return nil, ctx.Err()
		case <-slow.C:
			if !w.lastAt.IsZero() {
				_ = w.present(nil, fmt.Errorf("the server takes longer than %v to answer", slowLook)) // the next one fails, too
			}
		}
	}
}

func (w *watch) terminal() (size, bool) {
	if w.screen == nil {
		return size{}, false
	}
	return w.screen()
}

// present presents what was shown, or why nothing was.
func (w *watch) present(text []byte, lost error) error {
	if terminal, ok := w.terminal(); ok {
		return w.draw(terminal, text, lost)
	}
	return w.print(text, lost)
}

// print writes what was shown below what was shown before. It reports a fault once, and when the server answers again.
func (w *watch) print(text []byte, lost error) error {
	switch now := time.Now(); {
	case lost != nil:
		if w.lost == nil {
			fmt.Fprintf(w.errs, "%s  %s; trying again every %v\n", now.Format(time.TimeOnly), printable(lost.Error()), w.interval)
		}
		w.lost = lost
		return nil
	case w.lost != nil:
		fmt.Fprintf(w.errs, "%s  the server answers again\n", now.Format(time.TimeOnly))
		w.lost = nil
	}
	if !w.lastAt.IsZero() && !w.plain {
		text = append([]byte("\n"), text...)
	}
	w.lastAt = time.Now()
	_, err := w.out.Write(text)
	return err
}

// frameRows is how many rows of the screen are not for what is shown: two at the top, and one for the cursor.
const frameRows = 3

// draw draws the screen anew: a line that says how old this is, and what was shown. If the server is lost, it draws what is known
// from before.
func (w *watch) draw(terminal size, text []byte, lost error) error {
	now := time.Now()
	title := fmt.Sprintf("%s, every %v", now.Format(time.TimeOnly), w.interval)
	if lost == nil {
		w.last, w.lastAt = text, now
	} else {
		title = fmt.Sprintf("%s, still from %s: %s", now.Format(time.TimeOnly), w.lastAt.Format(time.TimeOnly), printable(lost.Error()))
	}
	var frame bytes.Buffer
	frame.WriteString(toTop)
	if !w.drawn {
		frame.WriteString(clearRest)
		w.drawn = true
	}
	lines := strings.Split(strings.TrimRight(string(w.last), "\n"), "\n")
	if room := max(1, terminal.height-frameRows); len(lines) > room {
		lines[room-1] = "…and more: this is all that the terminal has room for"
		lines = lines[:room]
	}
	for _, line := range append([]string{title, ""}, lines...) {
		fmt.Fprintf(&frame, "%s"+clearLine+"\n", cut(line, terminal.width))
	}
	frame.WriteString(clearRest)
	_, err := w.out.Write(frame.Bytes())
	return err
}

// cut returns as many characters of a line as a terminal shows in a row.
func cut(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width-1)]) + "…"
}

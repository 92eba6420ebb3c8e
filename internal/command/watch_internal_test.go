package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watchFor runs a watch for some time, in which it shows "look 1" and so on. Some looks fail.
func watchFor(t *testing.T, d time.Duration, w *watch, fails ...int) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		looks := 0
		err = w.run(ctx, func(out io.Writer, rows int) error {
			looks++
			if slices.Contains(fails, looks) {
				return errors.New("it does not answer\x1b")
			}
			_, err := fmt.Fprintf(out, "look %d\n%s", looks, strings.Repeat("row of the table\n", rows))
			return err
		})
	})
	return err
}

func TestAWatchIntoAFileIsPlain(t *testing.T) {
	var out, errs bytes.Buffer
	w := &watch{interval: 2 * time.Second, out: &out, errs: &errs}
	if err := watchFor(t, 11*time.Second, w, 3, 4); err != nil {
		t.Error(err)
	}
	if want := "look 1\n\nlook 2\n\nlook 5\n\nlook 6\n"; out.String() != want {
		t.Errorf("printed %q, want %q", &out, want)
	}
	// Times in the bubble are those of the local zone.
	lines := strings.Split(errs.String(), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], `:04  it does not answer\u001b; trying again every 2s`) || !strings.HasSuffix(lines[1], ":08  the server answers again") {
		t.Errorf("standard error has %q", lines)
	}
	out.Reset()
	w = &watch{interval: time.Second, out: &out, errs: &errs, plain: true}
	if err := watchFor(t, 2500*time.Millisecond, w); err != nil || out.String() != "look 1\nlook 2\nlook 3\n" {
		t.Errorf("as JSON, printed %q, error %v", &out, err)
	}
}

func TestAWatchOnATerminalStaysInPlace(t *testing.T) {
	var out, errs bytes.Buffer
	w := &watch{interval: 2 * time.Second, out: &out, errs: &errs, screen: func() (size, bool) { return size{40, 8}, true }}
	if err := watchFor(t, 5*time.Second, w, 3); err != nil || errs.Len() > 0 {
		t.Errorf("error %v, standard error %q", err, &errs)
	}
	frames := strings.Split(out.String(), toTop)[1:]
	if len(frames) != 3 {
		t.Fatalf("there are %d frames: %q", len(frames), &out)
	}
	for i, want := range []string{"look 1", "look 2", "look 2"} {
		lines := strings.Split(strings.TrimPrefix(frames[i], clearRest), clearLine+"\n")
		if len(lines) != 8 || lines[2] != want || !strings.HasPrefix(lines[6], "…and more") || lines[7] != clearRest {
			t.Errorf("frame %d has %q", i, lines)
		}
		for _, line := range lines {
			if n := len([]rune(line)); n > 40 || strings.Contains(strings.TrimSuffix(line, clearRest), "\x1b") {
				t.Errorf("a line has %d characters: %q", n, line)
			}
		}
	}
	if !strings.Contains(frames[1], ":02, every 2s") || !strings.Contains(frames[2], ":04, still from ") || !strings.Contains(frames[2], ":02: it does") {
		t.Errorf("the titles are wrong: %q", frames)
	}
}

// TestAWatchSaysThatTheServerIsSlow: a server that is stopped accepts connections, and does not answer.
func TestAWatchSaysThatTheServerIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errs bytes.Buffer
		w := &watch{interval: time.Second, out: &out, errs: &errs}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		looks := 0
		err := w.run(ctx, func(out io.Writer, _ int) error {
			switch looks++; looks {
			case 2:
				time.Sleep(30 * time.Second)
			case 4:
				time.Sleep(2 * time.Hour) // is abandoned
			}
			_, err := fmt.Fprintln(out, looks)
			return err
		})
		if err != nil || out.String() != "1\n\n2\n\n3\n" {
			t.Errorf("printed %q, error %v", &out, err)
		}
		if text := errs.String(); strings.Count(text, "takes longer than 5s to answer") != 2 || strings.Count(text, "answers again") != 1 {
			t.Errorf("standard error has %s", text)
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestAWatchThatBeginsWithAFaultEnds: the address is wrong, or a flag.
func TestAWatchThatBeginsWithAFaultEnds(t *testing.T) {
	if err := watchFor(t, time.Minute, &watch{interval: time.Second, out: io.Discard, errs: io.Discard}, 1); err == nil {
		t.Error("the watch goes on")
	}
}

func TestFlagsOfAWatch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	defer server.Close()
	for args, want := range map[string]string{
		"--interval 1s":          "--interval needs --watch",
		"--watch --interval 1":   `--interval "1" is not a valid duration of at least 100ms`,
		"--watch --interval 0s":  `--interval "0s" is not a valid duration of at least 100ms`,
		"--watch --interval 5ms": `--interval "5ms" is not a valid duration`,
		"":                       "",
	} {
		cmd := statsCommand()
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SilenceUsage = true
		cmd.SetArgs(append(strings.Fields(args), "--address", server.Listener.Addr().String()))
		err := cmd.ExecuteContext(t.Context())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}

// A screen is what was written to a terminal.
type screen struct {
	mu   sync.Mutex
	text string
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += string(p)
	return len(p), nil
}

// shown returns what was written since the last call.
func (s *screen) shown() (text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, s.text = s.text, ""
	return text
}

// TestProgressShowsAfterASecond, on one line, which is gone at the end.
func TestProgressShowsAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, n := new(screen), 0
		stop := progressOn(out, func() string {
			n++
			return fmt.Sprintf("%d of 9\n", n)
		})
		time.Sleep(progressAfter - time.Millisecond)
		synctest.Wait()
		if text := out.shown(); text != "" {
			t.Errorf("shown at once: %q", text)
		}
		time.Sleep(2 * progressInterval)
		stop()
		stop()
		if text, want := out.shown(), "\r1 of 9\\u000a, 1s\x1b[K\r2 of 9\\u000a, 1s\x1b[K\r\x1b[K"; text != want {
			t.Errorf("shown is %q, want %q", text, want)
		}
		stop = progressOn(out, func() string { return "not shown" })
		stop()
		if text := out.shown(); text != "" {
			t.Errorf("a command that takes no second shows %q", text)
		}
	})
}

// TestProgressIsForTerminals: whatever else standard error is gets none.
func TestProgressIsForTerminals(t *testing.T) {
	cmd := statsCommand()
	var errs bytes.Buffer
	cmd.SetErr(&errs)
	stop := showProgress(cmd, func() string { panic("it is asked for") })
	stop()
	if errs.Len() > 0 {
		t.Errorf("shown is %q", &errs)
	}
}

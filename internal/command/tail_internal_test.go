package command

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTailSaysWhatTopicsDid: that the channel has missed messages, and that a topic has ended.
func TestTailSaysWhatTopicsDid(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		if r.FormValue("after") == "" {
			_, _ = io.WriteString(w, `{"sid":"a","eid":"1","ts":"2026-01-02T03:04:05.000000000Z","body":7,"missed":3}`+"\n"+
				`{"sid":"b","eid":"2","ts":"2026-01-02T03:04:05.000000000Z","body":null,"end":"aborted"}`+"\n")
		}
	}))
	defer site.Close()
	var out, errs strings.Builder
	cmd := tailCommand()
	cmd.SetArgs([]string{"--url", site.URL, "--count", "2", "main.c"})
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], "  a  7") || !strings.HasSuffix(lines[1], "  b  end of the topic: aborted") {
		t.Errorf("tail prints %q", out.String())
	}
	if want := "3 messages of topics are missing here: the channel had no room for them\n"; errs.String() != want {
		t.Errorf("tail warns %q, want %q", errs.String(), want)
	}
}

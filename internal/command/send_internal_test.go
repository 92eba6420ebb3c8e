package command

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// TestRefusalsOfLinesHaveTheStatusOfRefusedRequests: a script that repeats what was refused for now relies on it.
func TestRefusalsOfLinesHaveTheStatusOfRefusedRequests(t *testing.T) {
	t.Parallel()
	for reasons, want := range map[string]int{
		"TIMEOUT": exitTryAgain, "SKIPPED": exitTryAgain, "LIMIT_REACHED": exitTryAgain, "CLOSED": exitTryAgain,
		"STORAGE_UNAVAILABLE": exitTryAgain, "STARTING": exitTryAgain, "NOT_FOUND": exitNotFound,
		"CLOSED NOT_FOUND TIMEOUT": exitNotFound, "BAD_REQUEST": 0, "NOT_FOUND FORBIDDEN": 0,
	} {
		var r sendResult
		for reason := range strings.FieldsSeq(reasons) {
			r.add(megaphone.IngestResult{FailuresTotal: 1, Failures: []megaphone.Failure{{Reason: reason}}}, 0)
		}
		status := 0
		if e, ok := errors.AsType[*exitError](r.err()); ok {
			status = e.status
		}
		if status != want {
			t.Errorf("%s: the exit status is %d, want %d", reasons, status, want)
		}
	}
}

// TestSendNamesTheTopicOfARefusedLine: a line has a topic in place of a channel.
func TestSendNamesTheTopicOfARefusedLine(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"written":0,"failures":[{"topic":"news","index":0,"reason":"CLOSED"},{"channel":"main.AAAABBBBCCCC","index":1,"reason":"TIMEOUT"}],"failuresTotal":2}`)
	}))
	defer site.Close()
	var errs strings.Builder
	cmd := sendCommand()
	cmd.SetArgs([]string{"--url", site.URL, "--ndjson"})
	cmd.SetIn(strings.NewReader("{}\n{}\n"))
	cmd.SetOut(io.Discard)
	cmd.SetErr(&errs)
	_ = cmd.ExecuteContext(t.Context())
	if want := "line 1 for the topic news: CLOSED\nline 2 for main.AAAA…: TIMEOUT\n"; !strings.HasPrefix(errs.String(), want) {
		t.Errorf("send reports %q, want %q", errs.String(), want)
	}
}

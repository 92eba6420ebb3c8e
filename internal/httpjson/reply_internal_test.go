package httpjson

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnlyHTTP1RepliesHaveHeadersOfTheConnection(t *testing.T) {
	for major, want := range map[int]string{1: "close", 2: "", 3: ""} {
		w := httptest.NewRecorder()
		ErrTooLarge.Write(w, &http.Request{ProtoMajor: major})
		if got := w.Header().Get("Connection"); got != want || w.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("HTTP/%d: Connection: %q with status %d", major, got, w.Code)
		}
	}
}

func TestADeadlineOfAnotherHandlerIsATimeout(t *testing.T) {
	if e := ErrorOf(context.DeadlineExceeded); e.Status != http.StatusServiceUnavailable || e.Code != "TIMEOUT" {
		t.Errorf("reply %d %s", e.Status, e.Code)
	}
}

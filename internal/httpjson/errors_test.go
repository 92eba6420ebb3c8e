package httpjson_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

func TestOnlyHTTP1RepliesHaveHeadersOfTheConnection(t *testing.T) {
	for major, want := range map[int]string{1: "close", 2: "", 3: ""} {
		w := httptest.NewRecorder()
		httpjson.ErrorOf(broker.ErrClosed).Write(w, &http.Request{ProtoMajor: major})
		if got := w.Header().Get("Connection"); got != want || w.Code != http.StatusServiceUnavailable {
			t.Errorf("HTTP/%d: Connection: %q with status %d", major, got, w.Code)
		}
	}
}

func TestADeadlineOfAnotherHandlerIsATimeout(t *testing.T) {
	if e := httpjson.ErrorOf(context.DeadlineExceeded); e.Status != http.StatusServiceUnavailable || e.Code != "TIMEOUT" {
		t.Errorf("reply %d %s", e.Status, e.Code)
	}
}

func TestTheReplyToAMessageThatIsNotValidSaysWhy(t *testing.T) {
	err := fmt.Errorf("%w: the stream id is empty", broker.ErrMessage)
	if e := httpjson.ErrorOf(err); e.Status != http.StatusBadRequest || e.Code != "BAD_REQUEST" || e.Message != err.Error() {
		t.Errorf("reply %d %s: %s", e.Status, e.Code, e.Message)
	}
}

func TestAStoreThatIsNotAvailableAsksToComeBack(t *testing.T) {
	w := httptest.NewRecorder()
	httpjson.ErrorOf(fmt.Errorf("%w: connection refused", broker.ErrUnavailable)).Write(w, &http.Request{ProtoMajor: 2})
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "refused") {
		t.Errorf("reply %d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestAnUnknownOutcomeIsNoFullChannel(t *testing.T) {
	err := fmt.Errorf("%w: %w", broker.ErrOutcomeUnknown, context.DeadlineExceeded)
	if e := httpjson.ErrorOf(err); !strings.Contains(e.Message, "not known") {
		t.Errorf("reply %d %s: %s", e.Status, e.Code, e.Message)
	}
	if e := httpjson.ErrorOf(context.DeadlineExceeded); !strings.Contains(e.Message, "is full") {
		t.Errorf("reply %d %s: %s", e.Status, e.Code, e.Message)
	}
}

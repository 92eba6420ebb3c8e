package guard_test

import (
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

type panicked struct {
	place guard.Place
	value any
	stack string
}

// capture returns the panics that are reported until the test ends.
func capture(t *testing.T) <-chan panicked {
	t.Helper()
	reports := make(chan panicked, 10)
	before := guard.OnPanic(func(place guard.Place, v any, stack []byte) {
		reports <- panicked{place, v, string(stack)}
	})
	t.Cleanup(func() { guard.OnPanic(before) })
	return reports
}

func fail() { panic("boom") }

func TestAPanicIsReportedWithItsStackAndCleanedUp(t *testing.T) {
	reports := capture(t)
	var order []string
	func() {
		defer guard.Recover(guard.WebSocket,
			func() { order = append(order, "first"); panic("the cleanup fails") },
			func() { order = append(order, "second") })
		fail()
	}()
	if r := <-reports; r.place != guard.WebSocket || r.value != "boom" || !strings.Contains(r.stack, "guard_test.fail") {
		t.Errorf("reported %+v", r)
	}
	if r := <-reports; r.value != "the cleanup fails" {
		t.Errorf("reported %+v", r)
	}
	if strings.Join(order, " ") != "first second" {
		t.Errorf("the cleanups ran as %v", order)
	}
}

func TestWithoutAPanicNothingHappens(t *testing.T) {
	reports := capture(t)
	func() { defer guard.Recover(guard.Read, fail) }()
	select {
	case r := <-reports:
		t.Errorf("reported %+v", r)
	default:
	}
}

func TestAGoroutineThatPanicsEndsAlone(t *testing.T) {
	reports := capture(t)
	cleaned := make(chan struct{})
	guard.Go(guard.Broker, fail, func() { close(cleaned) })
	<-cleaned
	if r := <-reports; r.place != guard.Broker || !strings.Contains(r.stack, "guard_test.fail") {
		t.Errorf("reported %+v", r)
	}
}

func TestAReportMayPanicToo(t *testing.T) {
	before := guard.OnPanic(func(guard.Place, any, []byte) { panic("so does the log") })
	defer func() { guard.OnPanic(before) }()
	cleaned := false
	func() {
		defer guard.Recover(guard.Event, func() { cleaned = true })
		fail()
	}()
	if !cleaned {
		t.Error("the cleanup was left out")
	}
}

func TestEachPlaceHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, place := range guard.Places() {
		if name := place.String(); name == "" || seen[name] {
			t.Errorf("%d is called %q", place, name)
		}
		seen[place.String()] = true
	}
	if !seen[guard.Exit.String()] || len(seen) != int(guard.Exit)+1 {
		t.Errorf("the places are %v", seen)
	}
}

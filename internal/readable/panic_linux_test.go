package readable

import (
	"io"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A panicky waiter panics.
type panicky struct{}

func (panicky) Readable() { panic("boom") }

// TestAWaiterThatPanicsHarmsNoOther: one goroutine calls all waiters.
func TestAWaiterThatPanicsHarmsNoOther(t *testing.T) {
	places := make(chan guard.Place, 1)
	before := guard.OnPanic(func(place guard.Place, _ any, _ []byte) { places <- place })
	defer func() { guard.OnPanic(before) }()
	listener := listen(t, "unix")
	bad, good := newPair(t, listener), newPair(t, listener)
	watch, err := Start(bad.raw, panicky{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop(bad.raw)
	defer good.start().Stop(good.raw)
	if _, err := io.WriteString(bad.far, "x"); err != nil {
		t.Fatal(err)
	}
	if place := <-places; place != guard.Connection {
		t.Errorf("reported in %v", place)
	}
	if _, err := io.WriteString(good.far, "x"); err != nil {
		t.Fatal(err)
	}
	good.awaitCall()
}

//go:build unix

package netturn

import (
	"os"
	"runtime"
	"testing"
)

// TestTheNetworkHasItsTurn while others are always ready to run, on one core.
func TestTheNetworkHasItsTurn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	came := make(chan struct{})
	go func() {
		_, _ = r.Read(make([]byte, 1))
		close(came)
	}()
	runtime.Gosched() // it waits now
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	Give() // what has come and this goroutine are both ready after it
	Give()
	select {
	case <-came:
	default:
		t.Error("what has come from the network waits")
	}
}

// TestWithoutAGate Give works too.
func TestWithoutAGate(t *testing.T) {
	g, err := newGate()
	if err != nil {
		t.Fatal(err)
	}
	if !g.give() {
		t.Error("the network has no turn")
	}
	g.close()
	if g.give() {
		t.Error("a closed gate gives the network its turn")
	}
}

package netturn

import "time"

const (
	// slowTurn is how long a turn takes if others have so much to compute that the scheduler never comes to ask the network.
	slowTurn = 8 * time.Millisecond
	// maxStep is how many goroutines a loop wakes at most between two turns.
	maxStep = 512
)

// A Pace says when a loop that wakes goroutines gives the network its turn. If turns take long, because other goroutines compute all
// the time, they come more rarely, so that the loop goes on. One goroutine at a time may use a Pace. Make one with [Every].
type Pace struct {
	every, step int       // goroutines between two turns: at first, and now
	woken       int       // goroutines since the last turn
	begun       time.Time // when the last turn ended
}

// Every returns the Pace of a loop that wakes so many goroutines between two turns.
func Every(goroutines int) Pace { return Pace{every: goroutines, step: goroutines, begun: time.Now()} }

// Woke notes that the loop has woken goroutines, and gives the network its turn if it is time.
func (p *Pace) Woke(goroutines int) {
	if p.woken += goroutines; p.woken >= p.step {
		p.give()
	}
}

// Worked gives the network its turn if the loop has gone on for longer than limit. The limit grows as turns come more rarely.
func (p *Pace) Worked(limit time.Duration) {
	if time.Since(p.begun) > limit*time.Duration(p.step)/time.Duration(p.every) {
		p.give()
	}
}

func (p *Pace) give() {
	before := time.Now()
	Give()
	p.woken, p.begun = 0, time.Now()
	if p.begun.Sub(before) < slowTurn {
		p.step = p.every
	} else {
		p.step = min(2*p.step, maxStep)
	}
}

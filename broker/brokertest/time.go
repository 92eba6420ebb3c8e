package brokertest

import (
	"testing/synctest"
	"time"
)

// Bounds of tests in real time.
const (
	// patience is how long a test waits for what must happen. It suffices on a machine with little to spare.
	patience = 20 * time.Second
	// pollInterval is the time between two looks at a state that should change.
	pollInterval = 5 * time.Millisecond
	// clockTolerance is how far the store's clock may be from ours.
	clockTolerance = time.Second
)

// settle waits until everything has happened that has been begun. In a bubble this takes no time.
func (s *suite) settle() {
	if s.realTime {
		time.Sleep(s.quiet)
		return
	}
	synctest.Wait()
}

// eventually waits until holds returns true. In a bubble, that must be without any time passing.
func (s *suite) eventually(holds func() bool) bool {
	if !s.realTime {
		synctest.Wait()
		return holds()
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if holds() {
			return true
		}
	}
	return holds()
}

// within is like eventually for what happens by itself, in at most the given time. In a bubble it just lets that time pass.
func (s *suite) within(d time.Duration, holds func() bool) bool {
	if !s.realTime {
		time.Sleep(d)
	}
	return s.eventually(holds)
}

// pick returns the duration for a bubble, or the one for real time.
func (s *suite) pick(bubble, realTime time.Duration) time.Duration {
	if s.realTime {
		return realTime
	}
	return bubble
}

// shortHold makes producers wait for a time that a test can wait for.
func (s *suite) shortHold() { s.limits.Hold = s.pick(s.limits.Hold, 300*time.Millisecond) }

// shortTTL makes channels live for a time that a test can wait for.
func (s *suite) shortTTL() { s.limits.TTL = s.pick(s.limits.TTL, 600*time.Millisecond) }

// took checks how long something took.
func (s *suite) took(start time.Time, want time.Duration) {
	s.Helper()
	took := time.Since(start)
	ok := took == want
	if s.realTime {
		ok = want*4/5 <= took && took < want+patience
	}
	if !ok {
		s.Errorf("it took %v, want %v", took, want)
	}
}

// isTime checks a time that the Broker reports of something that happened between two times.
func (s *suite) isTime(what string, got, from, to time.Time) {
	s.Helper()
	if s.realTime {
		from, to = from.Add(-clockTolerance), to.Add(clockTolerance)
	}
	if got.Before(from) || got.After(to) {
		s.Errorf("%s is %v, want a time from %v to %v", what, got, from, to)
	}
}

// receive waits for a value of c, or for its close. In a bubble, that must be without any time passing.
func receive[T any](s *suite, c <-chan T) (value T, ok bool) {
	if !s.realTime {
		synctest.Wait()
		select {
		case value = <-c:
			return value, true
		default:
			return value, false
		}
	}
	return receiveWithin(c, patience)
}

// receiveWithin waits for a value of c, or for its close, while time passes.
func receiveWithin[T any](c <-chan T, d time.Duration) (value T, ok bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case value = <-c:
		return value, true
	case <-timer.C:
		return value, false
	}
}

// stays reports whether c stays without a value, and open.
func stays[T any](s *suite, c <-chan T) bool {
	if s.realTime {
		_, ok := receiveWithin(c, s.quiet)
		return !ok
	}
	_, ok := receive(s, c)
	return !ok
}

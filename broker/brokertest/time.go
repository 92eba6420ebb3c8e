package brokertest

import (
	"testing/synctest"
	"time"
)

// Bounds of tests in real time.
const (
	// patience is how long a test waits for something that must happen. It is long enough for a loaded machine.
	patience = 20 * time.Second
	// patienceAfterFailure is for tests after one that has failed. A Broker that never does what it must would take too long
	// to test otherwise.
	patienceAfterFailure = 2 * time.Second
	// pollInterval is how often a test looks at a state that must change.
	pollInterval = 5 * time.Millisecond
	// clockTolerance is how much the store's clock may differ from ours.
	clockTolerance = time.Second
)

func (s *suite) patience() time.Duration {
	if s.realTime && s.failed.Load() {
		return patienceAfterFailure
	}
	return patience
}

// pause waits until nothing happens any more. In a bubble that takes no time. In real time it is a short while.
func (s *suite) pause() {
	if s.realTime {
		time.Sleep(s.quiet)
		return
	}
	synctest.Wait()
}

// eventually waits until holds returns true, and reports whether it did. In a bubble no time may pass until then.
func (s *suite) eventually(holds func() bool) bool {
	if !s.realTime {
		synctest.Wait()
		return holds()
	}
	for deadline := time.Now().Add(s.patience()); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if holds() {
			return true
		}
	}
	return holds()
}

// within is like eventually for something that the Broker does by itself within the given time. In a bubble that time
// passes first.
func (s *suite) within(d time.Duration, holds func() bool) bool {
	if !s.realTime {
		time.Sleep(d)
	}
	return s.eventually(holds)
}

// pick returns one duration in a bubble, and another in real time.
func (s *suite) pick(bubble, realTime time.Duration) time.Duration {
	if s.realTime {
		return realTime
	}
	return bubble
}

// shortHold sets a hold time that a test can wait for.
func (s *suite) shortHold() { s.limits.Hold = s.pick(s.limits.Hold, 300*time.Millisecond) }

// shortTTL sets a channel's time to live to one that a test can wait for.
func (s *suite) shortTTL() { s.limits.TTL = s.pick(s.limits.TTL, 600*time.Millisecond) }

// took checks how long it is since start. In real time it may be a fifth less than wanted, and much more.
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

// isTime checks a time that the Broker reports. It must lie between two others.
func (s *suite) isTime(what string, got, from, to time.Time) {
	s.Helper()
	if s.realTime {
		from, to = from.Add(-clockTolerance), to.Add(clockTolerance)
	}
	if got.Before(from) || got.After(to) {
		s.Errorf("%s is %v, want a time from %v to %v", what, got, from, to)
	}
}

// receive waits until c has a value or is closed, and reports whether that happened. In a bubble no time may pass until then.
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
	return receiveWithin(c, s.patience())
}

// receiveWithin is like receive, and lets time pass in a bubble too.
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

// silent reports whether c has no value, and is not closed, for a short while.
func silent[T any](s *suite, c <-chan T) bool {
	if s.realTime {
		_, ok := receiveWithin(c, s.quiet)
		return !ok
	}
	_, ok := receive(s, c)
	return !ok
}

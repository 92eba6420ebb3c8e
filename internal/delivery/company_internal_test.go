package delivery

import "testing"

// TestCompany a reader whose messages come alone stops waiting for more, looks again now and then, and waits again when several have
// come at once.
func TestCompany(t *testing.T) {
	var c company
	waits := func(sends, messages int) (n int) {
		for range sends {
			if c.expected() {
				n++
			}
			c.took(messages)
		}
		return n
	}
	if n := waits(patience, 1); n != patience {
		t.Errorf("a new reader waits %d times of %d", n, patience)
	}
	const many = 100 * retryEvery
	if n := waits(many, 1); n < many/retryEvery/2 || n > many/retryEvery*2 {
		t.Errorf("a reader whose messages come alone waits %d times of %d, want about each %d", n, many, retryEvery)
	}
	waits(1, 0) // another goroutine was faster
	for !c.expected() {
		c.took(1)
	}
	c.took(2)
	if n := waits(100, 2); n != 100 {
		t.Errorf("a reader whose messages come together waits %d times of 100", n)
	}
}

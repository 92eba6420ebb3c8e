package delivery

// company says whether a reader that was woken lets producers that are ready to run go first. What they write to its channel leaves
// in the same write to the socket. If several producers share a channel, that saves a tenth of the cost (bench: write-8). Where
// messages come alone, it would only cost the way through the scheduler; and if ten thousand readers are woken by one publish, all
// others would wait behind them twice.
type company struct {
	alone uint8 // how many times in a row there was no more than one message to take
}

const (
	// patience is how often in a row a message may come alone before the reader goes on without waiting.
	patience = 8
	// retryEvery is how often it waits all the same then, to learn of other producers.
	retryEvery = 32
)

// expected reports whether other messages may come together with the one that has woken the reader.
func (c *company) expected() bool { return c.alone < patience || c.alone%retryEvery == 0 }

// took notes how many messages there were to take.
func (c *company) took(n int) {
	switch {
	case n > 1:
		c.alone = 0
	case n == 1:
		if c.alone++; c.alone == 0 { // after 255
			c.alone = patience
		}
	}
}

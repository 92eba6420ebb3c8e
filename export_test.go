package megaphone

// HeldBytes returns how many bytes of messages wait in line, in the channels that configurations share.
func HeldBytes() (n int64) {
	pool.Range(func(_, pooled any) bool {
		n = pooled.(*shared).memory.held.Load()
		return true
	})
	return n
}

// Started returns how many configurations are started.
func Started() (n int) {
	pool.Range(func(_, pooled any) bool {
		active := &pooled.(*shared).active
		active.mu.Lock()
		defer active.mu.Unlock()
		n = len(active.apps)
		return true
	})
	return n
}

// ConnOf returns the connection of a request as Megaphone knows it.
var ConnOf = connOf

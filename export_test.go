package megaphone

// HeldBytes returns how many bytes of messages wait in line, in the channels that configurations share.
func HeldBytes() (n int64) {
	pool.Range(func(_, pooled any) bool {
		n = pooled.(*shared).memory.held.Load()
		return true
	})
	return n
}

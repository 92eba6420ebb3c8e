package broker

// KeyWindow is how many keyed messages a channel still recognises, at least, after it has let them go. Consumers drop
// duplicates among the last hundred messages or so (protocol.md, part 3), so this is well beyond what they can do.
const KeyWindow = 256

// ValidKey reports whether a text can be an idempotency key (protocol.md 2.11): 1 to 255 visible ASCII characters.
func ValidKey(key string) bool {
	for i := range len(key) {
		if key[i] < '!' || key[i] > '~' {
			return false
		}
	}
	return 0 < len(key) && len(key) <= 255
}

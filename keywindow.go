package megaphone

import "slices"

// KeyWindow is how many keyed messages a channel still knows after it has let them go: the last so many, at least.
// Consumers drop repeats among the last hundred or so messages (protocol.md, part 3), so this is well beyond what they can.
const KeyWindow = 256

// A keyWindow has the event ids of the keyed messages that a channel has let go last. It grows with what it has, to
// 4 KiB. Its zero value is empty, and a nil one is too.
type keyWindow struct {
	ids  []EventID
	next int // the place of the oldest, once all places are taken
}

func (w *keyWindow) add(id EventID) {
	if len(w.ids) < KeyWindow {
		w.ids = append(w.ids, id)
		return
	}
	w.ids[w.next] = id
	w.next = (w.next + 1) % KeyWindow
}

func (w *keyWindow) has(id EventID) bool { return w != nil && slices.Contains(w.ids, id) }

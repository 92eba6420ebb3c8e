package memory

import (
	"slices"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A keyWindow has the event ids of the last [broker.KeyWindow] keyed messages that a channel has let go. It grows as it
// fills, up to 4 KiB. Its zero value is empty, and so is a nil one.
type keyWindow struct {
	ids  []broker.EventID
	next int // the index of the oldest, once the window is full
}

func (w *keyWindow) add(id broker.EventID) {
	if len(w.ids) < broker.KeyWindow {
		w.ids = append(w.ids, id)
		return
	}
	w.ids[w.next] = id
	w.next = (w.next + 1) % broker.KeyWindow
}

func (w *keyWindow) has(id broker.EventID) bool { return w != nil && slices.Contains(w.ids, id) }

// last returns a copy of the newest n ids, or of as many as there are, oldest first.
func (w *keyWindow) last(n int) []broker.EventID {
	if w == nil || n == 0 {
		return nil
	}
	ids := slices.Concat(w.ids[w.next:], w.ids[:w.next])
	return ids[max(0, len(ids)-n):]
}

package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"slices"
)

// A keyWindow has the event ids of the keyed messages that a channel has let go last. It grows with what it has, to
// 4 KiB. Its zero value is empty, and a nil one is too.
type keyWindow struct {
	ids  []broker.EventID
	next int // the place of the oldest, once all places are taken
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

package megaphone

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// The names of what is announced (protocol.md 2.7). Caddy's events have "megaphone." before them.
const (
	channelCreated     = "channel_created"
	channelDeleted     = "channel_deleted"
	readerConnected    = "reader_connected"
	readerDisconnected = "reader_disconnected"
)

var eventNames = []string{channelCreated, channelDeleted, readerConnected, readerDisconnected}

// A notice is one thing to announce.
type notice struct {
	channel     string // its consumer address
	at          time.Time
	reason      EndReason // of a deletion
	undelivered int       // of a deletion
	transport   string    // of a reader
	endedBy     string    // of a reader that has left
	messages    int       // that it was sent
}

// data is what a handler of Caddy's event gets.
func (n *notice) data(event string) map[string]any {
	data := map[string]any{"channel": n.channel}
	switch event {
	case channelDeleted:
		data["reason"], data["undelivered"] = n.reason.String(), n.undelivered
	case readerConnected:
		data["transport"] = n.transport
	case readerDisconnected:
		data["transport"], data["ended_by"], data["messages"] = n.transport, n.endedBy, n.messages
	}
	return data
}

// activeApps knows whose configuration announces what happens: the one that was started last. A stream of an earlier
// one that ends later is announced by it too.
type activeApps struct {
	mu      sync.Mutex
	apps    []*App
	current atomic.Pointer[App]
}

func (l *activeApps) add(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apps = append(l.apps, a)
	l.choose()
}

func (l *activeApps) remove(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apps = slices.DeleteFunc(l.apps, func(b *App) bool { return b == a })
	l.choose()
}

// choose makes the last one announce, with its settings.
func (l *activeApps) choose() {
	if len(l.apps) == 0 {
		l.current.Store(nil)
		return
	}
	a := l.apps[len(l.apps)-1]
	for _, hook := range a.Webhooks {
		hook.sender.settings.Store(hook)
	}
	l.current.Store(a)
}

// announceDeletions is told by the registry what was deleted.
func (l *activeApps) announceDeletions(deletions []Deletion) {
	a := l.current.Load()
	if a == nil || !a.announces(channelDeleted) {
		return
	}
	now := time.Now()
	notices := make([]notice, len(deletions))
	for i, d := range deletions {
		notices[i] = notice{channel: d.Consumer(), at: now, reason: d.Reason, undelivered: d.Undelivered}
	}
	a.post(channelDeleted, notices)
	// Handlers of events may take their time, and the registry's goroutine has none.
	if a.handles(channelDeleted) {
		select {
		case a.deletions <- notices:
		default:
			a.logger.Warn("handlers of the event megaphone.channel_deleted are too slow: events were dropped",
				zap.Int("events", len(notices)))
		}
	}
}

// maxDeletions is how many batches of deletions wait for handlers of the event.
const maxDeletions = 100

// startAnnouncing makes this configuration the one that announces.
func (a *App) startAnnouncing() {
	a.deletions = make(chan []notice, maxDeletions)
	go func() {
		for {
			select {
			case notices := <-a.deletions:
				for i := range notices {
					a.emit(channelDeleted, &notices[i])
				}
			case <-a.ctx.Done():
				return
			}
		}
	}()
	a.shared.active.add(a)
	a.shared.guardHeap()
}

// announcer is the App that announces. Sites may be served a moment before the first one is started.
func (a *App) announcer() *App {
	if current := a.shared.active.current.Load(); current != nil {
		return current
	}
	return a
}

// handles tells whether there are handlers of Caddy's event.
func (a *App) handles(event string) bool {
	return a.events != nil && a.events.ShouldEmit("megaphone."+event)
}

// announces tells whether anybody wants to know of an event.
func (a *App) announces(event string) bool {
	return a.handles(event) || slices.ContainsFunc(a.Webhooks, func(w *Webhook) bool { return w.Event == event })
}

// emit runs the handlers of Caddy's event, unless the configuration is unloaded.
func (a *App) emit(event string, n *notice) {
	if a.handles(event) && a.ctx.Err() == nil {
		a.events.Emit(a.ctx, "megaphone."+event, n.data(event))
	}
}

// post gives notices to the webhooks for an event.
func (a *App) post(event string, notices []notice) {
	for _, hook := range a.Webhooks {
		if hook.Event == event {
			hook.sender.enqueue(notices)
		}
	}
}

// announce tells whoever wants to know.
func (a *App) announce(event string, n notice) {
	b := a.announcer()
	if !b.announces(event) {
		return
	}
	n.at = time.Now()
	b.post(event, []notice{n})
	b.emit(event, &n)
}

func (a *App) announceCreated(consumer string) {
	a.announce(channelCreated, notice{channel: consumer})
}

// reading counts and announces a read; the returned function does so with its end, of which the record tells.
func (h *Handler) reading(read readRequest) (ended func(rec *record)) {
	counted := h.app.shared.metrics.reading(read.kind)
	h.app.announce(readerConnected, notice{channel: read.consumer, transport: read.kind.String()})
	return func(rec *record) {
		counted()
		h.app.announce(readerDisconnected, notice{
			channel: read.consumer, transport: read.kind.String(), endedBy: rec.endedBy, messages: rec.messages,
		})
	}
}

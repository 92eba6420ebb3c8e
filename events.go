package megaphone

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// eventData is what a handler of Caddy's event gets.
func eventData(event string, n *webhook.Event) map[string]any {
	data := map[string]any{"channel": n.Channel}
	switch event {
	case webhook.ChannelDeleted:
		data["reason"], data["undelivered"] = n.Reason.String(), n.Undelivered
	case webhook.ReaderConnected:
		data["transport"] = n.Transport
	case webhook.ReaderDisconnected:
		data["transport"], data["ended_by"], data["messages"] = n.Transport, n.EndedBy, n.Messages
	}
	return data
}

// activeApps knows whose configuration announces what happens: of those that are started, the first. So at a reload that
// is the old one until it is about to be stopped, when the new one is started as a whole, and it stays the old one if the
// new one fails. A stream of an earlier configuration that ends later is announced by it too.
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

// replace lets another one announce in the place of a, and returns it. If there is none, a goes on, and nil is returned.
func (l *activeApps) replace(a *App) *App {
	l.mu.Lock()
	defer l.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(l.apps), func(b *App) bool { return b == a })
	if len(others) == 0 {
		return nil
	}
	l.apps = others
	l.choose()
	return l.current.Load()
}

// choose makes the first one announce, with its settings.
func (l *activeApps) choose() {
	if len(l.apps) == 0 {
		l.current.Store(nil)
		return
	}
	a := l.apps[0]
	for _, hook := range a.Webhooks {
		hook.sender.Configure(hook.settings)
	}
	l.current.Store(a)
}

// announceDeletions is told by the registry what was deleted.
func (s *registry) announceDeletions(deletions []broker.Deletion) {
	a := s.active.current.Load()
	if a == nil || !a.announces(webhook.ChannelDeleted) {
		return
	}
	now := time.Now()
	notices := make([]webhook.Event, len(deletions))
	for i, d := range deletions {
		notices[i] = webhook.Event{Channel: d.Consumer(), At: now, Reason: d.Reason, Undelivered: d.Undelivered}
	}
	a.post(webhook.ChannelDeleted, notices)
	if a.handles(webhook.ChannelDeleted) {
		s.deletions.add(deletionBatch{app: a, notices: notices})
	}
}

// startAnnouncing lets this configuration announce, as soon as it is the first.
func (a *App) startAnnouncing() {
	a.registry.active.add(a)
	a.registry.guardHeap()
}

// leaveAnnouncing leaves it to another configuration, as this one is about to be stopped, and reports whether there is
// one. What was deleted until now is still told to this one, for it may have handlers or webhooks that the other lacks.
func (a *App) leaveAnnouncing() (left bool) {
	a.registry.flushDeletions()
	successor := a.registry.active.replace(a)
	a.registry.guardHeap()
	a.finishes = a.hasHandlers(webhook.ChannelDeleted) && (successor == nil || !successor.hasHandlers(webhook.ChannelDeleted))
	return successor != nil
}

// announcer is the App that announces. Sites may be served a moment before the first one is started.
func (a *App) announcer() *App {
	if current := a.registry.active.current.Load(); current != nil {
		return current
	}
	return a
}

// handles tells whether anybody sees Caddy's event: a handler, or who reads the log of level DEBUG.
func (a *App) handles(event string) bool {
	return a.eventsStarted.Load() && a.events.ShouldEmit("megaphone."+event)
}

// hasHandlers tells whether there are handlers of Caddy's event. Where there is a log of level DEBUG, handlers that
// other modules have added are not known.
func (a *App) hasHandlers(event string) bool {
	if !a.handles(event) || !a.eventsLogged {
		return a.handles(event)
	}
	return slices.ContainsFunc(a.events.Subscriptions, func(s *caddyevents.Subscription) bool {
		return slices.Contains(s.Events, "megaphone."+event) || slices.Contains(s.Events, "") // the latter for all
	})
}

// announces tells whether anybody wants to know of an event.
func (a *App) announces(event string) bool {
	return a.handles(event) || slices.ContainsFunc(a.Webhooks, func(w *Webhook) bool { return w.Event == event })
}

// emit runs the handlers of Caddy's event, and reports whether they have run before the configuration was unloaded.
func (a *App) emit(event string, n *webhook.Event) (done bool) {
	if !a.handles(event) || a.ctx.Err() != nil {
		return false
	}
	a.events.Emit(a.ctx, "megaphone."+event, eventData(event, n))
	return a.ctx.Err() == nil
}

// emitApart is like emit, but leaves handlers to themselves that go on when the configuration is unloaded.
func (a *App) emitApart(event string, n *webhook.Event) (done bool) {
	ended := make(chan bool, 1)
	go func() { ended <- a.emit(event, n) }()
	select {
	case done = <-ended:
		return done
	case <-a.ctx.Done():
	}
	select {
	case done = <-ended:
	case <-time.After(maxExitEvents):
	}
	return done
}

// emit runs the handlers that the configuration has which announces, or else those of a. If it is unloaded meanwhile,
// those of the next one run. The function run is App.emit or one like it.
func (s *registry) emit(event string, n *webhook.Event, a *App, run func(*App, string, *webhook.Event) bool) (done bool) {
	for {
		current := s.active.current.Load()
		lacks := current == nil || !current.hasHandlers(event) && a.hasHandlers(event)
		if !lacks && run(current, event, n) {
			return true
		}
		if s.active.current.Load() == current {
			return current != a && run(a, event, n)
		}
	}
}

// post gives notices to the webhooks for an event.
func (a *App) post(event string, notices []webhook.Event) {
	for _, hook := range a.Webhooks {
		if hook.Event == event {
			hook.sender.Enqueue(notices)
		}
	}
}

// announce tells whoever wants to know.
func (a *App) announce(event string, n webhook.Event) {
	b := a.announcer()
	if !b.announces(event) {
		return
	}
	n.At = time.Now()
	b.post(event, []webhook.Event{n})
	a.registry.emit(event, &n, b, (*App).emit)
}

func (a *App) announceCreated(consumer string) {
	a.announce(webhook.ChannelCreated, webhook.Event{Channel: consumer})
}

// countRead counts and announces a read; the returned function does so with its end, of which the record tells.
func (h *Handler) countRead(read readRequest) (ended func(rec *record)) {
	counted := h.app.registry.metrics.Reading(read.kind)
	h.app.announce(webhook.ReaderConnected, webhook.Event{Channel: read.consumer, Transport: read.kind.String()})
	return func(rec *record) {
		counted()
		h.app.announce(webhook.ReaderDisconnected, webhook.Event{
			Channel: read.consumer, Transport: read.kind.String(), EndedBy: rec.endedBy, Messages: rec.messages,
		})
	}
}

package megaphone

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/warning"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// eventData returns the data that handlers of a Caddy event get.
func eventData(name string, e *webhook.Event) map[string]any {
	data := map[string]any{"channel": e.Channel}
	switch name {
	case webhook.TopicOccupied, webhook.TopicVacated:
		return map[string]any{"topic": e.Topic}
	case webhook.ChannelDeleted:
		data["reason"], data["undelivered"] = e.Reason.String(), e.Undelivered
	case webhook.ChannelWaiting:
		data["messages"], data["since"] = e.Messages, e.Since.UTC().Format(time.RFC3339Nano)
	case webhook.ReaderConnected:
		data["transport"] = e.Transport
	case webhook.ReaderDisconnected:
		data["transport"], data["ended_by"], data["messages"] = e.Transport, e.EndedBy, e.Messages
	}
	return data
}

// activeApps knows the active App: the one whose handlers and webhooks get all events. That is the first one of those
// that are started. So during a reload it is the old one, until the new one has started as a whole and the old one is
// about to be stopped. If the new one fails, the old one stays active. The active App also reports the end of streams
// that began under an earlier configuration.
type activeApps struct {
	mu      sync.Mutex
	apps    []*App
	current atomic.Pointer[App]
}

// add adds an App that has started.
func (l *activeApps) add(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apps = append(l.apps, a)
	l.choose()
}

// remove removes an App that has stopped. It has no effect if the App is not there.
func (l *activeApps) remove(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apps = slices.DeleteFunc(l.apps, func(b *App) bool { return b == a })
	l.choose()
}

// replace removes a, and returns the App that is active then. If there is no other App, a stays and replace returns
// nil.
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

// choose makes the first App the active one, and gives its settings to the webhooks. The caller holds the lock.
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

// reportDeletions reports deletions to the webhooks and handlers of the active App. The Broker calls it.
func (s *registry) reportDeletions(deletions []broker.Deletion) {
	defer guard.Recover(guard.Event)
	a := s.active.current.Load()
	if a == nil || !a.wantsEvent(webhook.ChannelDeleted) {
		return
	}
	now := time.Now()
	events := make([]webhook.Event, len(deletions))
	for i, d := range deletions {
		events[i] = webhook.Event{Channel: d.Consumer(), At: now, Reason: d.Reason, Undelivered: d.Undelivered}
	}
	s.reportLater(a, webhook.ChannelDeleted, events)
}

// reportWaiting reports channels in which messages wait to the webhooks and handlers of the active App. The Broker calls it.
func (s *registry) reportWaiting(channels []broker.Waiting) {
	defer guard.Recover(guard.Event)
	a := s.active.current.Load()
	if a == nil {
		return
	}
	now := time.Now()
	events := make([]webhook.Event, len(channels))
	for i, w := range channels {
		events[i] = webhook.Event{Channel: w.Consumer(), At: now, Messages: w.Messages, Since: w.Since}
	}
	s.reportLater(a, webhook.ChannelWaiting, events)
}

// waitingAfter returns how long messages have to wait until the active App wants to know, or 0 if it does not.
func (s *registry) waitingAfter() time.Duration {
	if a := s.active.current.Load(); a != nil && a.wantsEvent(webhook.ChannelWaiting) {
		return time.Duration(a.WaitingAfter)
	}
	return 0
}

// reportLater reports events of one name to the webhooks of an App, and queues them for its handlers.
func (s *registry) reportLater(a *App, name string, events []webhook.Event) {
	a.post(name, events)
	if a.handles(name) {
		s.later.add(eventBatch{app: a, name: name, events: events})
	}
}

// laterEvents are the events that wait in the queue for handlers.
var laterEvents = []string{webhook.ChannelDeleted, webhook.ChannelWaiting, webhook.TopicOccupied, webhook.TopicVacated}

// startEvents makes this App the active one as soon as it is the first.
func (a *App) startEvents() {
	a.registry.active.add(a)
	a.registry.guardHeap()
}

// handOverEvents makes another App the active one, because this one is about to be stopped. It reports whether there is
// another. Before that, this App gets the deletions up to now: it may have handlers or webhooks that the other one
// lacks.
func (a *App) handOverEvents() (handedOver bool) {
	a.registry.flushDeletions()
	successor := a.registry.active.replace(a)
	a.registry.guardHeap()
	a.finishes = slices.ContainsFunc(laterEvents, func(name string) bool {
		return a.hasHandlers(name) && (successor == nil || !successor.hasHandlers(name))
	})
	return successor != nil
}

// activeApp returns the active App. If none is, it returns a: sites may be served a moment before the first App is
// started.
func (a *App) activeApp() *App {
	if current := a.registry.active.current.Load(); current != nil {
		return current
	}
	return a
}

// handles reports whether anybody sees this event of Caddy's: a handler, or the log if it has the level DEBUG.
func (a *App) handles(name string) bool {
	return a.eventsStarted.Load() && a.events.ShouldEmit("megaphone."+name)
}

// hasHandlers reports whether this event of Caddy's has handlers. If there is a log with the level DEBUG, it does not
// see handlers that other modules have added.
func (a *App) hasHandlers(name string) bool {
	if !a.handles(name) || !a.eventsLogged {
		return a.handles(name)
	}
	return slices.ContainsFunc(a.events.Subscriptions, func(s *caddyevents.Subscription) bool {
		return slices.Contains(s.Events, "megaphone."+name) || slices.Contains(s.Events, "") // "" stands for all events
	})
}

// wantsEvent reports whether a webhook or a handler of Caddy's event wants the event.
func (a *App) wantsEvent(name string) bool {
	return a.handles(name) || slices.ContainsFunc(a.Webhooks, func(w *Webhook) bool { return w.Event == name })
}

// emit runs the handlers of Caddy's event. It reports whether they have returned before the configuration was unloaded.
// If nobody handles the event, it returns false. If a handler panics, Caddy calls none after it, and emit returns true.
func (a *App) emit(name string, e *webhook.Event) (done bool) {
	if !a.handles(name) || a.ctx.Err() != nil {
		return false
	}
	defer guard.Recover(guard.Event, func() { done = true })
	a.events.Emit(a.ctx, "megaphone."+name, eventData(name, e))
	return a.ctx.Err() == nil
}

// emitOrAbandon is like emit, but it abandons handlers that continue for more than maxExitEvents after the
// configuration was unloaded.
func (a *App) emitOrAbandon(name string, e *webhook.Event) (done bool) {
	ended := make(chan bool, 1) // emit always returns
	go func() { ended <- a.emit(name, e) }()
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

// emit runs the handlers of the active App, or those of a if the active App has none and a has some. If that App is
// unloaded meanwhile, the handlers of the next active App run. It reports whether handlers have run to their end. The
// function run is [App.emit] or [App.emitOrAbandon].
func (s *registry) emit(name string, e *webhook.Event, a *App, run func(*App, string, *webhook.Event) bool) (done bool) {
	for {
		current := s.active.current.Load()
		lacks := current == nil || !current.hasHandlers(name) && a.hasHandlers(name)
		if !lacks && run(current, name, e) {
			return true
		}
		if s.active.current.Load() == current {
			return current != a && run(a, name, e)
		}
	}
}

// post adds events of one name to the queues of its webhooks.
func (a *App) post(name string, events []webhook.Event) {
	for _, hook := range a.Webhooks {
		if hook.Event == name {
			hook.sender.Enqueue(events)
		}
	}
}

// report reports an event to the webhooks and handlers of the active App. It sets the event's time. It returns when the
// handlers have returned. It does not panic, whatever they do.
func (a *App) report(name string, e webhook.Event) {
	defer guard.Recover(guard.Event)
	active := a.activeApp()
	if !active.wantsEvent(name) {
		return
	}
	e.At = time.Now()
	active.post(name, []webhook.Event{e})
	a.registry.emit(name, &e, active, (*App).emit)
}

// reportCreated reports that a channel was created.
func (a *App) reportCreated(consumer string) {
	a.report(webhook.ChannelCreated, webhook.Event{Channel: consumer})
}

// countRead counts a read, and reports that its reader has connected. The caller must call ended when the read has
// ended, with the access log entry that says how.
func (h *Handler) countRead(read *readRequest) (ended func(entry *accessLogEntry)) {
	counted := h.app.registry.metrics.CountRead(read.kind)
	h.app.report(webhook.ReaderConnected, webhook.Event{Channel: read.consumer, Transport: read.kind.String()})
	return func(entry *accessLogEntry) {
		counted()
		h.app.report(webhook.ReaderDisconnected, webhook.Event{
			Channel: read.consumer, Transport: read.kind.String(), EndedBy: entry.endedBy, Messages: entry.messages,
		})
	}
}

// An eventQueue holds the events that wait for handlers and that a Broker has reported: deletions, and what happened to
// topics. Such handlers may be slow, and the Broker must not wait for them. All configurations share the queue. When one is
// replaced, the next one gets the events that wait.
type eventQueue struct {
	mu      sync.Mutex
	batches []eventBatch
	waiting int           // events in batches
	wake    chan struct{} // receives a value when there are batches
	done    chan struct{} // closed when nobody takes batches any more
	full    warning.Limiter
	lost    eventBatch // the last one that found the queue full
}

// An eventBatch is either some events of one name, or a mark that shows how far the handlers have come.
type eventBatch struct {
	app     *App // the one that was active at the time
	name    string
	events  []webhook.Event
	reached chan<- struct{} // of a mark: closed when the handlers have come this far
}

// maxEvents is how many events wait at most.
const maxEvents = 1_000_000

// add appends a batch. If there is no room for it, its events are lost, and add logs that now and then.
func (q *eventQueue) add(batch eventBatch) {
	q.mu.Lock()
	room := q.waiting+len(batch.events) <= maxEvents
	if room {
		q.batches = append(q.batches, batch)
		q.waiting += len(batch.events)
	} else {
		q.lost = eventBatch{app: batch.app, name: batch.name}
	}
	q.mu.Unlock()
	if !room {
		logLost(batch, q.full.Due(len(batch.events)))
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// logLost logs how many events found the queue full, if any did. The batch is the last of them.
func logLost(batch eventBatch, lost int64) {
	if lost > 0 {
		loadedLogger(batch.app.logger).Warn("handlers of the event megaphone."+batch.name+" are too slow: events are lost", zap.Int64("lost", lost))
	}
}

// logRest logs the lost events that are in no log line yet. Call it when there is room again.
func (q *eventQueue) logRest() {
	q.mu.Lock()
	last := q.lost
	q.mu.Unlock()
	logLost(last, q.full.Rest())
}

// take removes the first batch. It reports false if there is none.
func (q *eventQueue) take() (batch eventBatch, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batches) == 0 {
		q.batches = nil // frees its memory
		return eventBatch{}, false
	}
	batch, q.batches[0] = q.batches[0], eventBatch{}
	q.batches = q.batches[1:]
	q.waiting -= len(batch.events)
	return batch, true
}

// mark returns a channel that is closed when the handlers are done with everything that is in the queue now.
func (q *eventQueue) mark() <-chan struct{} {
	reached := make(chan struct{})
	q.add(eventBatch{reached: reached})
	return reached
}

// emitLater runs handlers for the events in the queue. It returns when the registry is closed and the queue is
// empty.
func (s *registry) emitLater() {
	defer close(s.later.done)
	for s.emitNext() {
	}
}

// emitNext runs handlers for the next batch, or waits for one. It reports false when there will be none. A panic, which may
// be that of a log, does not keep it from the next batch.
func (s *registry) emitNext() (more bool) {
	defer guard.Recover(guard.Event)
	more = true
	q := &s.later
	batch, ok := q.take()
	if ok {
		s.emitBatch(batch)
		return more
	}
	q.logRest()
	select {
	case <-q.wake:
	case <-s.closing.Done():
		if batch, ok = q.take(); !ok {
			return false
		}
		s.emitBatch(batch)
	}
	return more
}

// emitBatch runs handlers for a batch, or closes the channel of a mark.
func (s *registry) emitBatch(batch eventBatch) {
	if batch.reached != nil {
		close(batch.reached)
		return
	}
	lost := 0
	for i := range batch.events {
		if !s.emit(batch.name, &batch.events[i], batch.app, (*App).emitOrAbandon) {
			lost++
		}
	}
	if lost > 0 {
		loadedLogger(batch.app.logger).Warn("handlers of the event megaphone."+batch.name+" are not configured any more: events are lost",
			zap.Int("lost", lost))
	}
}

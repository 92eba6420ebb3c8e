package disk

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// syncInterval is how often the log makes everything durable if nobody waits for that. So a loss of power takes little
// more than a second of what was written with the durability process.
const syncInterval = time.Second

// syncer makes records durable: those that somebody waits for at once, together with all that come until the disk is
// ready for them, and the others once a second.
func (l *log) syncer() {
	defer l.stopped.Done()
	ticker := time.NewTicker(syncInterval)
	defer ticker.Stop()
	for {
		select {
		case <-l.dirty:
			runtime.Gosched() // producers that are ready go first, so one sync is for all of them
		case <-ticker.C:
		case <-l.stop:
			return
		}
		l.outlast(func() { _ = l.syncAll() }) // which breaks down if it fails
	}
}

// outlast calls f. If f panics, the log breaks down, so nobody waits in vain, and the maintainer begins anew.
func (l *log) outlast(f func()) {
	defer guard.Recover(guard.Broker, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.breakDown(errPanicked)
	})
	f()
}

// syncAll makes all durable that is written by now, and tells those who wait for it. If it fails, the log has broken down. It fails
// also while the log begins anew: what waits then waits until all that lives is durable.
func (l *log) syncAll() error { return l.sync(false) }

// sync does the work of syncAll. If all is true, all that lives was written again.
func (l *log) sync(all bool) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	w, err := l.written(all)
	if err != nil {
		return err
	}
	err = errPanicked // unless it returns
	defer func() { finish(w.commit, w.holders, err) }()
	err = l.synced(&w, l.watched("make the journal durable", l.syncStalls, w.sync))
	return err
}

// A batch is what becomes durable together.
type batch struct {
	commit  *journal.Commit
	holders []holder
	sealed  []*segment
	head    *segment
	end     int // of the head
}

// written returns what is written by now. It fails if that may not be made durable.
func (l *log) written(all bool) (w batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return w, errClosed
	}
	if l.fault != nil && (!all || !l.renewing) {
		return w, l.fault
	}
	w = batch{l.commit, l.holders, slices.Clone(l.unsynced), l.head, l.head.end}
	l.commit, l.holders = nil, nil
	l.syncs, l.inSync = w.commit, true
	return w, nil
}

func (w *batch) sync() error {
	for _, s := range w.sealed {
		s.file.seal()
		if err := s.file.sync(); err != nil {
			return err
		}
		_ = s.file.close() // it is durable already
	}
	if w.end != w.head.synced || len(w.sealed) > 0 {
		return w.head.file.sync()
	}
	return nil
}

// synced notes that everything is durable, or breaks down with the error.
func (l *log) synced(w *batch, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.syncs, l.inSync = nil, false
	l.stalled.Store(false)
	if err == nil {
		l.unsynced = l.unsynced[len(w.sealed):]
		if w.head.synced != w.end {
			w.head.synced = w.end
			err = w.head.setMark()
		}
	}
	if err != nil {
		l.breakDown(fmt.Errorf("make the journal durable: %w", err))
	}
	return err
}

// finish tells those who wait for a commit what became of it.
func finish(commit *journal.Commit, holders []holder, err error) {
	if err != nil {
		// The channels keep the messages. They are written again, and then readers see them.
		err = fmt.Errorf("%w: %w", broker.ErrOutcomeUnknown, err)
	} else {
		for _, h := range holders {
			h.Durable(h.position, commit)
		}
	}
	if commit != nil {
		commit.Finish(err)
	}
}

package disk

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// syncInterval is how often the log makes everything durable if nobody waits for that. So a loss of power takes little
// more than a second of what was written with the durability process.
const syncInterval = time.Second

// syncer makes records durable: those that somebody waits for at once, together with all that come until the disk is
// ready for them, and the others once a second.
func (l *log) syncer() {
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
		l.syncAll()
	}
}

// syncAll makes all durable that is written by now, and tells those who wait for it. It reports whether it did.
func (l *log) syncAll() bool {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	if l.fault != nil && !l.renewing {
		l.mu.Unlock()
		return false
	}
	commit, holders := l.commit, l.holders
	l.commit, l.holders = nil, nil
	sealed, head, end := slices.Clone(l.unsynced), l.head, l.head.end
	l.mu.Unlock()

	var err error
	for _, s := range sealed {
		if err = s.file.sync(); err != nil {
			break
		}
		_ = s.file.close() // it is durable already
	}
	if err == nil && (end != head.synced || len(sealed) > 0) {
		err = head.file.sync()
	}

	l.mu.Lock()
	if err == nil {
		l.unsynced = l.unsynced[len(sealed):]
		if head.synced != end {
			head.synced = end
			err = head.setMark()
		}
	}
	if err != nil {
		l.breakDown(fmt.Errorf("make the journal durable: %w", err))
	}
	l.mu.Unlock()
	finish(commit, holders, err)
	return err == nil
}

// finish tells those who wait for a commit what became of it.
func finish(commit *journal.Commit, holders []holder, err error) {
	if err != nil {
		// The channels keep the messages. They are written again, and then readers see them.
		err = fmt.Errorf("%w: %w", broker.ErrOutcomeUnknown, err)
	} else {
		for _, h := range holders {
			h.Durable(h.position)
		}
	}
	if commit != nil {
		commit.Finish(err)
	}
}

package disk

import (
	"cmp"
	"fmt"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// Some changes cannot be refused: a message is taken, a channel expires, a member misses a message. If the log cannot write such a
// change when it happens, because of a fault or a full disk, it owes it. It writes it later, as things are then. A call that has
// asked for a change is told: it fails and nothing happens, or it waits until there are no debts.

// writeAsked writes a record that lets go of something. If nobody has asked for it, it is writeOrOwe, and does not fail. The lock is
// held.
func (l *log) writeAsked(id journal.ID, payload []byte, ask bool) error {
	if !ask {
		l.writeOrOwe(id, payload)
		return nil
	}
	_, err := l.write(payload, nil, asked)
	return err
}

// writeOrOwe writes a record. If that fails, the channel is written later as it is then, or its end. So it is if the log begins
// anew, for that may fail. The lock is held.
func (l *log) writeOrOwe(id journal.ID, payload []byte) {
	_, err := l.write(payload, nil, urgent)
	if (err != nil || l.fault != nil) && !l.closed {
		kind := payload[0]
		l.owe(id, kind == kindJoin || kind == kindLeave || kind == kindMark || kind == kindMember)
	}
}

// owe notes that something of a channel or topic is to be written. The lock is held.
func (l *log) owe(id journal.ID, ofTopics bool) {
	if l.debts == nil {
		l.debts = map[journal.ID]bool{}
	}
	l.debts[id] = l.debts[id] || ofTopics
}

// Barrier implements [journal.Journal]. After a fault, the commit is finished when all that lives was written again.
func (l *log) Barrier() *journal.Commit {
	waits := l.Waits()
	l.mu.Lock()
	defer l.mu.Unlock()
	owes := len(l.debts) > 0 || l.paying
	switch {
	case l.closed && (owes || waits && l.fault != nil):
		commit := journal.NewCommit()
		finish(commit, nil, cmp.Or(l.fault, errClosed))
		return commit
	case l.closed:
		return nil
	case owes:
		if l.owed == nil {
			l.owed = journal.NewCommit()
		}
		return l.owed
	case !waits, l.fault == nil && l.commit == nil && len(l.unsynced) == 0 && l.head.synced == l.head.end:
		return nil
	}
	return l.committing(nil, 0)
}

// payDebts writes what could not be written when it happened. What it does not come to is owed as before.
func (l *log) payDebts() error {
	l.mu.Lock()
	debts := l.debts
	l.debts, l.paying = nil, true
	l.mu.Unlock()
	defer l.debtsPaid(debts)
	for id, ofTopics := range debts {
		lives := l.engine.Look(id, func(c journal.Locked) {
			_, heads := headsOf(c, ofTopics)
			for _, head := range heads {
				l.locked(func() { l.writeOrOwe(id, head) })
			}
		})
		if l.isHalted() { // a channel of a Broker that is closed looks like one that is gone
			return errClosed
		}
		if !lives {
			l.locked(func() { l.writeOrOwe(id, appendID(nil, kindDelete, id)) })
		}
		delete(debts, id)
	}
	return nil
}

// debtsPaid tells whoever waits for it if there are no debts any more. left are those that were not paid.
func (l *log) debtsPaid(left map[journal.ID]bool) {
	l.mu.Lock()
	l.paying = false
	for id, ofTopics := range left {
		l.owe(id, ofTopics)
	}
	owed := l.owed
	if len(l.debts) > 0 || l.fault != nil {
		owed = nil
	} else {
		l.owed = nil
	}
	l.mu.Unlock()
	if owed != nil {
		finish(owed, nil, l.syncAll())
	}
}

// Takes implements [journal.Journal].
func (l *log) Takes() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.fault
	if err == nil && l.full {
		err = l.nextErr
	}
	if err == nil {
		err = l.stallsNow()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", broker.ErrStorage, err)
	}
	return err
}

// Retry implements [journal.Journal].
func (l *log) Retry(id journal.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retries == nil {
		l.retries = map[journal.ID]bool{}
	}
	l.retries[id] = true
}

// retry lets the channels go on that wait for the log.
func (l *log) retry() {
	l.mu.Lock()
	retries := l.retries
	l.retries = nil
	l.mu.Unlock()
	for id := range retries {
		l.engine.Look(id, journal.Locked.Retry)
	}
}

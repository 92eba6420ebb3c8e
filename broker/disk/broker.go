// Package disk keeps channels, topics and their messages in memory, and in a journal on the disk, so they survive a restart of
// the process. Its [Broker] is that of package memory with a journal.
//
// The journal is a folder of segments (segment.go), each with records (record.go). The channels write a record for each
// change, with their lock held (log.go). [Broker.Start] reads the records and restores the channels (recovery.go). What a
// record promises is a matter of [Durability] (sync.go).
package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// Durability says what a write that has succeeded survives.
type Durability int

const (
	// Process means that it survives the end of the process, however it ends. A loss of power takes what was written in the
	// last seconds.
	Process Durability = iota
	// Disk means that it survives a loss of power, too.
	Disk
)

// Settings are what may change while a [Broker] is open.
type Settings struct {
	Durability Durability
	// MaxDisk is how many bytes the journal may take; 0 means any number.
	MaxDisk int64
}

// Options are for [Open].
type Options struct {
	Settings

	// Path is the folder of the journal. Start makes it if it is not there. No other process may use it.
	Path string
	// Logger returns where the Broker logs now. If it is nil, the Broker does not log.
	Logger func() *slog.Logger

	segment int    // the size of a segment; 0 means SegmentSize
	folder  folder // nil means that at Path
}

// SegmentSize is the size of a segment, in bytes. A journal takes two of them at least.
const SegmentSize = 64 << 20

// A Broker is a [broker.Broker] whose channels outlive the process.
type Broker struct {
	*memory.Broker

	log     *log
	options Options

	starting sync.Mutex
	started  bool
	closed   bool
	ready    atomic.Bool
	closing  sync.Once
	ended    chan struct{} // is closed when Close has done all

	backingUp chan struct{} // has a value while a backup is made
}

// Open returns a Broker. It touches no file until [Broker.Start] is called. The caller must call Close.
func Open(o Options) *Broker {
	if o.Logger == nil {
		discard := slog.New(slog.DiscardHandler)
		o.Logger = func() *slog.Logger { return discard }
	}
	if o.segment == 0 {
		o.segment = SegmentSize
	}
	if o.folder == nil {
		o.folder = &osFolder{path: o.Path}
	}
	b := &Broker{options: o, backingUp: make(chan struct{}, 1), ended: make(chan struct{})}
	b.log = &log{
		folder: o.folder, size: o.segment, report: b.report, scale: 1,
		syncing: make(lock, 1), dirty: make(chan struct{}, 1), wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	b.log.prepared = sync.NewCond(&b.log.mu)
	b.log.settings.Store(&o.Settings)
	b.log.health.Store(new(error))
	b.Broker, b.log.engine = memory.NewJournaled(b.log)
	return b
}

// Configure changes the settings from now on.
func (b *Broker) Configure(s Settings) {
	b.log.settings.Store(&s)
	signal(b.log.wake)
}

// Start implements [broker.Starter]. It takes some two seconds for a million messages. It fails if another process uses
// the folder, and if the journal is damaged in a part that was durable before.
func (b *Broker) Start(ctx context.Context) error {
	b.starting.Lock()
	defer b.starting.Unlock()
	switch {
	case b.closed:
		return broker.ErrClosed
	case b.started:
		return nil
	}
	begin := time.Now()
	if err := b.options.folder.prepare(); err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	report, err := b.log.start(ctx)
	if err != nil {
		_ = b.options.folder.close()
		return fmt.Errorf("open the journal in %s: %w", b.options.Path, err)
	}
	b.started = true
	b.ready.Store(true)
	b.report(event{started: report, took: time.Since(begin)})
	return nil
}

// start reads the journal, restores the channels and begins to write.
func (l *log) start(ctx context.Context) (*Report, error) {
	r, err := readJournal(ctx, l.folder, false, nil)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.report.refusal(); err != nil {
		return nil, err
	}
	all, gaps, err := r.channels()
	if err != nil {
		return nil, err
	}
	damaged := gaps > 0 || len(r.report.Damages) > 0
	if err := l.begin(r, damaged); err != nil {
		return nil, err
	}
	l.engine.Restore(all.topics, all.channels)
	if damaged {
		if err := l.rewrite(l.head.sequence); err != nil {
			l.end()
			return nil, err
		}
	}
	l.retry()
	l.stopped.Add(2)
	guard.Go(guard.Broker, l.syncer)
	guard.Go(guard.Broker, l.maintainer)
	return &r.report, nil
}

// begin makes the first segment to be written, behind those that were read. It is suspect if damage in them counts for
// nothing from now on.
func (l *log) begin(r *recovery, suspect bool) error {
	for _, name := range r.unused {
		if err := l.folder.remove(name); err != nil {
			return err
		}
	}
	sequence, before := uint64(1), 0
	l.nextTag.Store(rand.Uint32()) //nolint:gosec // no secret
	for _, s := range r.segments {
		sequence, before = s.sequence+1, s.end
		l.sealed = append(l.sealed, sealed{s.sequence, s.end, len(s.data)})
		l.nextTag.Store(r.nextTag)
	}
	next, err := l.makeSegment(sequence)
	if err != nil {
		return err
	}
	next.file.populate() // or else the first writes wait for the system to find pages
	l.next = next
	return l.advance(before, suspect)
}

// rewrite writes all that was read again, and removes the segments that it was read from: they are damaged.
func (l *log) rewrite(first uint64) error {
	if err := l.copyAll(); err != nil {
		return err
	}
	return l.removeBefore(first)
}

// copyAll writes all that lives, and makes it durable.
func (l *log) copyAll() (err error) {
	for id := range l.engine.IDs() {
		l.engine.Look(id, func(c journal.Locked) { err = l.copyAllOf(c) })
		if err != nil {
			return err
		}
	}
	return l.syncAll()
}

// halt begins to stop all that happens beside the writes. No segment is removed after that because of what the channels say, so they
// may be closed: a channel that is closed would look like one that is gone.
func (l *log) halt() {
	l.halting.Do(func() { close(l.stop) })
	l.locked(l.prepared.Broadcast)
}

// end ends the log after halt. What was written is durable then.
func (l *log) end() {
	l.stopped.Wait()
	_ = l.syncAll() // if it fails, the fault is known
	l.syncing.Lock()
	defer l.syncing.Unlock()
	var broken bool
	l.locked(func() {
		for l.preparing {
			l.prepared.Wait()
		}
		l.closed, broken = true, l.fault != nil
		finish(l.commit, l.holders, errClosed)
		finish(l.owed, nil, errClosed)
		l.commit, l.holders, l.owed = nil, nil, nil
	})
	if !broken {
		_ = l.dropNext() // or else the next start does that
		if err := l.head.file.cut(l.head.end); err == nil {
			_ = l.head.file.sync() // it is durable already; this is for the length
		}
	}
	if l.next != nil {
		_ = l.next.file.close()
		l.next = nil
	}
	_ = l.head.file.close()
	l.closeUnsynced()
}

// Close implements [broker.Broker]. The channels stay in the journal. If the disk does not answer, Close does not wait for it for long.
// Then the folder is in use until it does, or the process ends.
func (b *Broker) Close() {
	b.closing.Do(func() {
		go func() {
			defer close(b.ended)
			defer guard.Recover(guard.Broker)
			b.end()
		}()
	})
	timer := time.NewTimer(maxClose)
	defer timer.Stop()
	select {
	case <-b.ended:
	case <-timer.C:
		b.report(event{problem: fmt.Errorf("close the journal: %w for %v: a loss of power now would take what was written last", errStalled, maxClose)})
		go b.log.abandon()
	}
}

// end does the work of Close.
func (b *Broker) end() {
	b.starting.Lock()
	defer b.starting.Unlock()
	b.closed = true
	if b.started {
		b.log.halt()
	}
	b.Broker.Close()
	if b.started {
		b.log.end()
		if err := b.options.folder.close(); err != nil {
			b.report(event{problem: fmt.Errorf("unlock the journal: %w", err)})
		}
	}
}

// Healthy implements [broker.HealthChecker].
func (b *Broker) Healthy() error {
	if !b.ready.Load() {
		return broker.ErrStarting
	}
	return b.log.Health()
}

// Keeps implements [broker.Keeper].
func (b *Broker) Keeps() bool {
	return b.Healthy() == nil || errors.Is(b.Healthy(), broker.ErrStarting)
}

package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A backup is the journal as it would be if the process were killed at one moment. It needs no stop of the writes: what
// has been written to a segment never changes, and while a backup is made, no segment is removed.

// Backup implements [broker.Backuper]. While it works, the journal is not compacted, so it may grow.
func (b *Broker) Backup(ctx context.Context, path string) (size int64, err error) {
	if err := b.starts(); err != nil {
		return 0, err
	}
	select {
	case b.backingUp <- struct{}{}: // one at a time, or else two could write to one folder
		defer func() { <-b.backingUp }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("back up the journal to %s: %w", path, errors.Join(err, broker.ErrBackupExists))
	}
	partial := path + ".partial"
	if err := os.RemoveAll(partial); err != nil { // of a backup that was interrupted
		return 0, err
	}
	if err := os.Mkdir(partial, 0o700); err != nil {
		return 0, err
	}
	if size, err = b.log.backup(ctx, partial); err != nil {
		return 0, errors.Join(fmt.Errorf("back up the journal: %w", err), os.RemoveAll(partial))
	}
	if err := os.Rename(partial, path); err != nil {
		return 0, err
	}
	return size, (&osFolder{path: filepath.Dir(path)}).sync()
}

// backup copies the segments to an empty folder, and makes the copies durable.
func (l *log) backup(ctx context.Context, to string) (size int64, err error) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	switch err := l.await(ctx, l.syncAll); {
	case errors.Is(err, errClosed):
		return 0, broker.ErrClosed
	case err != nil:
		return 0, err
	}
	l.mu.Lock()
	segments, fault := append(slices.Clone(l.sealed), sealed{l.head.sequence, l.head.end, len(l.head.mem)}), l.fault
	l.mu.Unlock()
	if fault != nil {
		return 0, fault // what is written now may be given up
	}
	for _, s := range segments {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if l.isHalted() {
			return 0, broker.ErrClosed
		}
		if err := l.backupSegment(s, to); err != nil {
			return 0, fmt.Errorf("%s: %w", segmentName(s.sequence), err)
		}
		size += int64(s.end)
	}
	return size, (&osFolder{path: to}).sync()
}

// backupSegment copies as much of a segment as counts. In the copy all of it is durable, and its mark says so.
func (l *log) backupSegment(s sealed, to string) (err error) {
	data, closed, err := l.folder.open(segmentName(s.sequence))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closed()) }()
	copied, err := os.OpenFile(filepath.Join(to, segmentName(s.sequence)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator names the folder
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, copied.Close()) }()
	return guardReads(func() error {
		if len(data) < s.end {
			return errDamaged
		}
		header := slices.Clone(data[:segmentHeader])
		putMark(header, s.end)
		if _, err := copied.Write(header); err != nil {
			return err
		}
		if _, err := copied.Write(data[segmentHeader:s.end]); err != nil {
			return err
		}
		return copied.Sync()
	})
}

package disk

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"
)

// Check reads the journal in a folder that no Broker uses, and reports what [Repair] would keep of it, and what is damaged.
// It changes nothing. progress, unless it is nil, is called with how many bytes have been read, and how many there are, at first and
// after each segment.
func Check(ctx context.Context, path string, progress func(read, all int64)) (*Report, error) {
	if err := mustHave(path); err != nil {
		return nil, err
	}
	return check(ctx, &osFolder{path: path, readOnly: true}, progress)
}

// mustHave fails if a folder has no journal: its name may be mistaken.
func mustHave(path string) error {
	names, err := (&osFolder{path: path}).list()
	if err == nil && !slices.ContainsFunc(names, isSegmentName) {
		err = fmt.Errorf("%s has no journal: name the folder of the setting path, or that of a backup", path)
	}
	return err
}

func check(ctx context.Context, f folder, progress func(read, all int64)) (*Report, error) {
	if err := f.prepare(); err != nil {
		return nil, err
	}
	defer f.close() //nolint:errcheck // nothing was written
	r, err := readJournal(ctx, f, true, progress)
	if err != nil {
		return nil, err
	}
	defer r.close()
	_, _, err = r.channels()
	return &r.report, err
}

// Repair writes the journal in a folder that no Broker uses anew, with all that can be read of it. It moves the segments
// that were there to another folder within the folder, and returns its name. If nothing is damaged, it changes nothing and
// the name is empty. progress is as for [Check].
func Repair(ctx context.Context, path string, progress func(read, all int64)) (report *Report, kept string, err error) {
	if err := mustHave(path); err != nil {
		return nil, "", err
	}
	return repair(ctx, &osFolder{path: path}, SegmentSize, progress)
}

func repair(ctx context.Context, f folder, segment int, progress func(read, all int64)) (report *Report, kept string, err error) {
	if err := f.prepare(); err != nil {
		return nil, "", err
	}
	defer f.close() //nolint:errcheck // everything is durable by then
	r, err := readJournal(ctx, f, true, progress)
	if err != nil {
		return nil, "", err
	}
	defer r.close()
	all, gaps, err := r.channels()
	if err != nil || len(r.report.Damages) == 0 && len(r.report.MissingFiles) == 0 && gaps == 0 {
		return &r.report, "", err
	}
	b := Open(Options{folder: f, segment: segment})
	defer b.Broker.Close()
	if err := b.log.begin(r, true); err != nil {
		return nil, "", err
	}
	b.log.engine.Restore(all.topics, all.channels)
	first := b.log.head.sequence
	err = b.log.copyAll()
	b.log.halt()
	b.log.end()
	if err != nil {
		return nil, "", err
	}
	kept = "damaged-" + time.Now().UTC().Format("20060102T150405.000000000Z")
	for _, s := range r.segments {
		if s.sequence < first {
			if err := f.rename(s.name, path.Join(kept, s.name)); err != nil {
				return nil, "", fmt.Errorf("the repaired journal is complete, but a damaged segment is in its folder: %w", err)
			}
		}
	}
	return &r.report, kept, f.sync()
}

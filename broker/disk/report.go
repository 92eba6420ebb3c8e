package disk

import (
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// A Damage is a part of a segment that cannot be read.
type Damage struct {
	File   string `json:"file"`
	Offset int    `json:"offset"`
	// Bytes is how many bytes there are from Offset to the end of the segment, and Records how many whole records are among
	// them. Start leaves them out. [Repair] keeps them.
	Bytes   int `json:"bytes"`
	Records int `json:"records"`
	// Middle tells that the part was durable before. Something has damaged it since. Otherwise it is the tail that a loss
	// of power, or the fault of a disk, has torn off.
	Middle bool `json:"middle"`
}

// A Report says what a journal has.
type Report struct {
	Channels int `json:"channels"`
	Messages int `json:"messages"`
	// Topics is how many topics there are, Memberships how many memberships they have, and Kept how many messages they keep.
	Topics      int      `json:"topics"`
	Memberships int      `json:"memberships"`
	Kept        int      `json:"kept"`
	Segments    int      `json:"segments"`
	Bytes       int64    `json:"bytes"` // of all segments
	Damages     []Damage `json:"damages,omitempty"`
	// MissingFiles are segments that were lost between others. There may be more of them behind each.
	MissingFiles []string `json:"missing_files,omitempty"`
	// Missing is how many messages were lost between others that are there.
	Missing int `json:"missing"`
	// MissingMemberships is how many memberships were lost because their topic was.
	MissingMemberships int `json:"missing_memberships,omitempty"`
}

// count counts what there is, but for the messages of channels.
func (r *Report) count(all *restored) {
	r.Channels, r.Topics = len(all.channels), len(all.topics)
	for i := range all.channels {
		r.Memberships += len(all.channels[i].Topics)
	}
	for i := range all.topics {
		r.Kept += len(all.topics[i].Kept)
	}
}

// Refused reports whether a Broker refuses to start with the journal.
func (r *Report) Refused() bool {
	return len(r.MissingFiles) > 0 || slices.ContainsFunc(r.Damages, func(d Damage) bool { return d.Middle })
}

// refusal returns an error if durable parts of the journal are damaged.
func (r *Report) refusal() error {
	for _, d := range r.Damages {
		if d.Middle {
			return fmt.Errorf("%s is damaged at offset %d, in a part that was durable before: restore the folder from a copy, "+
				"or run \"caddy megaphone journal check\" to see what a repair would lose", d.File, d.Offset)
		}
	}
	return nil
}

// An event is something to tell operators.
type event struct {
	recovered bool
	problem   error
	started   *Report
	answered  string // what took so long
	took      time.Duration
}

// report logs an event.
func (b *Broker) report(e event) {
	logger := b.options.Logger().With(slog.String("path", b.options.Path))
	switch {
	case e.problem != nil:
		logger.Error("the journal has a problem: channels go on to deliver what they hold", slog.Any("error", e.problem))
	case e.answered != "":
		logger.Info("the disk answers again", slog.String("to", e.answered), slog.Duration("took", e.took))
	case e.recovered:
		logger.Info("the journal takes writes again")
	case e.started != nil:
		logger.Info("the journal is open", slog.Int("channels", e.started.Channels), slog.Int("messages", e.started.Messages),
			slog.Int("topics", e.started.Topics), slog.Int64("bytes", e.started.Bytes), slog.Duration("took", e.took))
		for _, d := range e.started.Damages {
			logger.Warn("the end of a segment of the journal was damaged, and is left out", slog.String("file", d.File),
				slog.Int("offset", d.Offset), slog.Int("bytes", d.Bytes), slog.Int("records", d.Records))
		}
		if e.started.Missing > 0 {
			logger.Warn("messages are missing in the journal between others", slog.Int("messages", e.started.Missing))
		}
		if e.started.MissingMemberships > 0 {
			logger.Warn("topics are missing in the journal, and their members have left", slog.Int("memberships", e.started.MissingMemberships))
		}
	}
}

package broker

import (
	"bytes"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/clock"
)

// RestoreLine makes a message again from its line, as [Message.Line] returned it. The line is the same, byte for byte.
// keyed says whether the message was written with an idempotency key.
//
// RestoreLine is for a store that knows by a checksum that the line has not changed: it checks the frame of the line, but
// not whether the body is JSON. It keeps the line. It fails with [ErrMessage].
func RestoreLine(line []byte, keyed bool) (*Message, error) {
	m := &Message{keyed: keyed, line: line}
	frame := endOfString(line, len(lineStart))
	m.body = uint32(frame + lineFrame) //nolint:gosec // messages are limited to 1 GiB
	if frame < 0 || int(m.body)+1+len(lineEnd) > len(line) || !bytes.HasPrefix(line, []byte(lineStart)) ||
		!bytes.HasSuffix(line, []byte(lineEnd)) {
		return nil, fmt.Errorf("%w: this is not the line of a message", ErrMessage)
	}
	const idLength = 36
	rest := line[frame:m.body]
	id, rest := cutFrame(rest, lineBeforeID, idLength)
	at, rest := cutFrame(rest, lineBeforeTime, len(timeFormat))
	var err error
	if m.id, err = uuid.ParseBytes(id); err != nil || string(rest) != lineBeforeBody {
		return nil, fmt.Errorf("%w: the line has no event id", ErrMessage)
	}
	t, err := time.Parse(timeFormat, string(at))
	if err != nil {
		return nil, fmt.Errorf("%w: the line has no timestamp", ErrMessage)
	}
	m.at = clock.At(t)
	return m, nil
}

// cutFrame cuts a label and the value of the given length behind it off the frame of a line. The frame is long enough. If
// it does not begin with the label, the value is empty.
func cutFrame(frame []byte, label string, length int) (value, rest []byte) {
	rest, ok := bytes.CutPrefix(frame, []byte(label))
	if !ok {
		return nil, frame
	}
	return rest[:length], rest[length:]
}

// endOfString returns where the JSON string that begins at a place ends, or -1 if none begins there.
func endOfString(line []byte, from int) int {
	if from >= len(line) || line[from] != '"' {
		return -1
	}
	for i := from + 1; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

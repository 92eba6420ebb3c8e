package megaphone

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// An envelope is one line of a streamed ingest: a message and the channel that it is for (protocol.md 2.6). Its parts
// are parts of the line.
type envelope struct {
	channel  []byte // as text
	streamID []byte // as a JSON string
	body     []byte
	key      string

	compact bool // the body has no white space between its tokens
}

var errEnvelope = errors.New(`a line is {"channel":…,"streamId":…,"body":…}`)

// parseEnvelope reads a line. It does what encoding/json would do with a struct, but that names are told
// apart by case, and each value must be of the right kind, null too; it is several times faster (BenchmarkEnvelope)
// and allocates nothing for a line without escapes in its strings.
func parseEnvelope(line []byte) (envelope, error) {
	var e envelope
	if !utf8.Valid(line) {
		return e, errUTF8
	}
	c := compactor{src: line, scanOnly: true}
	i := c.space(0)
	if err := expect(line, i, '{'); err != nil {
		return e, err
	}
	i = c.space(i + 1)
	for more := i < len(line) && line[i] != '}'; more; {
		name, next, err := stringAt(line, i)
		if err != nil {
			return e, err
		}
		i = c.space(next)
		if err := expect(line, i, ':'); err != nil {
			return e, err
		}
		start := c.space(i + 1)
		spaces := c.spaces
		end, err := c.value(start, 1)
		if err != nil {
			return e, err
		}
		if err := e.set(name, line[start:end], c.spaces == spaces); err != nil {
			return e, err
		}
		i = c.space(end)
		if more = i < len(line) && line[i] == ','; more {
			i = c.space(i + 1)
		}
	}
	if err := expect(line, i, '}'); err != nil {
		return e, err
	}
	if i = c.space(i + 1); i < len(line) {
		return e, unexpected(line, i)
	}
	return e, e.check()
}

// set sets a member of the envelope. Members that it does not know are passed over.
func (e *envelope) set(name, value []byte, compact bool) error {
	var err error
	switch string(name) {
	case "channel":
		e.channel, err = textOf(value)
	case "streamId":
		if value[0] != '"' {
			return errEnvelope
		}
		e.streamID = value
	case "body":
		e.body, e.compact = value, compact
	case "key":
		var key []byte
		key, err = textOf(value)
		if e.key = string(key); err == nil && !validKey(e.key) {
			err = errKey
		}
	}
	return err
}

func (e *envelope) check() error {
	switch {
	case e.channel == nil || e.streamID == nil || e.body == nil:
		return errEnvelope
	case len(e.streamID) == len(`""`):
		return errors.New("the stream id is empty")
	}
	return nil
}

// message renders the envelope's message.
func (e *envelope) message() (*Message, error) {
	streamID := e.streamID
	if bytes.IndexByte(streamID, '\\') >= 0 {
		text, err := textOf(streamID)
		if err != nil {
			return nil, err
		}
		streamID = appendString(nil, string(text))
	}
	m, line := beginMessage(len(streamID), len(e.body), e.key)
	line = append(line, streamID...)
	line = m.appendFrame(line)
	if e.compact {
		return m.finish(append(line, e.body...)), nil
	}
	line, err := appendCompact(line, e.body, 1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err) // it was scanned before, so this is not expected
	}
	return m.finish(line), nil
}

// stringAt returns the text of the JSON string at i, and the index after it.
func stringAt(src []byte, i int) (text []byte, next int, err error) {
	if err := expect(src, i, '"'); err != nil {
		return nil, i, err
	}
	next, err = scanString(src, i)
	if err != nil {
		return nil, next, err
	}
	text, err = textOf(src[i:next])
	return text, next, err
}

// textOf returns the text of a JSON value that is a string.
func textOf(value []byte) ([]byte, error) {
	if value[0] != '"' {
		return nil, errEnvelope
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1], nil
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return nil, errEnvelope
	}
	return []byte(text), nil
}

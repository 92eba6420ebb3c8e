package broker

import (
	"bytes"
	"fmt"
)

// A Merge says how a message may be merged with the newest pending message of its channel (protocol.md 2.13). Both must have
// the same stream id and the same Merge.
type Merge uint8

const (
	// MergeNone means that the message is never merged.
	MergeNone Merge = iota
	// MergeReplace means that it takes the place of the other one.
	MergeReplace
	// MergeAppend means that both become one, if both bodies are strings or both arrays, and the whole is not too large
	// ([Limits].MaxMessage).
	MergeAppend
)

// String returns the name by which a producer asks for it, or "" for [MergeNone].
func (how Merge) String() string { return [...]string{"", "replace", "append"}[how] }

// ParseMerge is the inverse of [Merge.String] for what is merged. It fails with [ErrMessage] for any other text, also an empty
// one.
func ParseMerge(name string) (Merge, error) {
	switch name {
	case "replace":
		return MergeReplace, nil
	case "append":
		return MergeAppend, nil
	}
	return MergeNone, fmt.Errorf("%w: a message is merged by \"replace\" or \"append\", not by %.50q", ErrMessage, name)
}

// WithMerge sets how the message may be merged, and returns the message. It must be called before anybody else has the message.
func (m *Message) WithMerge(how Merge) *Message {
	m.merge = how
	return m
}

// Merge returns how the message may be merged.
func (m *Message) Merge() Merge { return m.merge }

// CanMerge reports whether the message may be merged with an older one, which stands right before it: by what both are, not by
// where they are. maxBody is [Limits].MaxMessage.
func (m *Message) CanMerge(older *Message, maxBody int64) bool {
	if m.merge == MergeNone || m.merge != older.merge || !sameText(m.streamJSON(), older.streamJSON()) {
		return false
	}
	if m.merge == MergeReplace {
		return true
	}
	a, b := older.Body(), m.Body()
	return a[0] == b[0] && (a[0] == '"' || a[0] == '[') && int64(len(a)+len(b)-len(seam(a, b))) <= maxBody
}

// MergeWith returns the message that an older one and m become, for which [Message.CanMerge] has been true. It has the event
// id, the timestamp and the key of m. If it is to replace the older one, it is m itself. Otherwise it is a new message, and its
// body is the text, or the array, of both.
func (m *Message) MergeWith(older *Message) *Message {
	if m.merge == MergeReplace {
		return m
	}
	a, b := older.Body(), m.Body()
	cut := seam(a, b)
	line := make([]byte, 0, len(m.line)+len(a)-len(cut))
	line = append(append(line, m.line[:m.body]...), a[:len(a)-1]...)
	if len(cut) == 1 { // of two arrays that have elements
		line = append(line, ',')
	}
	line = append(append(line, b[1:]...), m.line[len(m.line)-int(m.tail):]...)
	return &Message{id: m.id, keyed: m.keyed, merge: m.merge, at: m.at, line: line, extra: m.extra, tail: m.tail, body: m.body}
}

// seam is what the whole of two strings or two arrays lacks of its parts: the end of one and the beginning of the other. Where
// two elements meet, a comma stands in its place.
//
// Halves of a surrogate pair, if one string ends with the first as an escape and the other begins with the second, become the
// character that they are: what the text of both is to a client in JavaScript.
func seam(a, b []byte) string {
	if a[0] == '[' && len(a) > len("[]") && len(b) > len("[]") {
		return "]"
	}
	return `""`
}

// streamJSON returns the stream id as it stands in the line: a JSON string.
func (m *Message) streamJSON() []byte {
	return m.line[len(lineStart) : int(m.body)-lineFrame-int(m.extra)]
}

// sameText reports whether two JSON strings are the same text.
func sameText(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return false
	}
	return textOf(a) == textOf(b)
}

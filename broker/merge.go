package broker

import "bytes"

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

// ParseMerge is the inverse of [Merge.String]. It reports false for any other text, also an empty one.
func ParseMerge(name string) (how Merge, ok bool) {
	switch name {
	case "replace":
		return MergeReplace, true
	case "append":
		return MergeAppend, true
	}
	return MergeNone, false
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
	return a[0] == b[0] && (a[0] == '"' || a[0] == '[') && int64(joinedSize(len(a), b)) <= maxBody
}

// MergeWith returns what m and the messages before it become, oldest first, if [Message.CanMerge] is true of each and the one
// before it. It has the event id, the timestamp and the key of m. If m is to replace the others, it is m itself. Otherwise it is
// a new message, and its body is the text, or the array, of all.
func (m *Message) MergeWith(older ...*Message) *Message {
	if m.merge == MergeReplace {
		return m
	}
	size := len(m.line)
	for _, o := range older {
		size += len(o.Body())
	}
	line := append(make([]byte, 0, size), m.line[:m.body]...)
	for _, o := range older {
		line = appendBody(line, int(m.body), o.Body())
	}
	line = append(appendBody(line, int(m.body), m.Body()), m.line[len(m.line)-int(m.tail):]...)
	return &Message{id: m.id, keyed: m.keyed, merge: m.merge, at: m.at, line: line, extra: m.extra, tail: m.tail, body: m.body}
}

// appendBody appends a body to the line, in which there may be one already.
func appendBody(line []byte, begin int, body []byte) []byte {
	if len(line) == begin {
		return append(line, body...)
	}
	line = line[:len(line)-1]
	if needsComma(len(line)+1-begin, body) {
		line = append(line, ',')
	}
	return append(line, body[1:]...)
}

// SizeBehind returns how long the body of a message is that m was appended to, and whose body had some size.
func (m *Message) SizeBehind(size int) int { return joinedSize(size, m.Body()) }

// needsComma reports whether a comma comes between a body of some size and one that is appended: both are arrays with elements.
func needsComma(size int, body []byte) bool {
	return body[0] == '[' && size > len("[]") && len(body) > len("[]")
}

// joinedSize returns the size of the body that a body of some size becomes if another one is appended.
func joinedSize(size int, body []byte) int {
	if needsComma(size, body) {
		size++
	}
	return size + len(body) - len(`""`)
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

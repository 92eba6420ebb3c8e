// Package jsontext checks and compacts JSON, and writes strings, without building values. Everything but the white space
// between tokens stays as it was written.
package jsontext

import (
	"errors"
	"unicode/utf8"
)

// MaxDepth is how deeply JSON may be nested. encoding/json has the same bound.
const MaxDepth = 10000

var (
	errDepth     = errors.New("nested too deeply")
	errUTF8      = errors.New("it is not UTF-8")
	errTruncated = errors.New("unexpected end")
)

// AppendCompact checks that src is exactly one JSON value (RFC 8259) in valid UTF-8, whose strings are text: they have no lone
// surrogate. It appends the value to dst without
// the white space between tokens. Everything else stays as written: the order and repetition of keys, the digits of
// numbers, the escapes in strings. It does not keep src.
//
// Depth is how deeply the value is nested in the text that dst becomes. It counts towards the bound on nesting, so that
// consumers can read the whole.
//
// Every message goes through here. encoding/json.Compact does the same several times slower (BenchmarkCompact).
// FuzzCompact checks that the two agree.
func AppendCompact(dst, src []byte, depth int) ([]byte, error) {
	if !utf8.Valid(src) {
		return dst, errUTF8
	}
	c := compactor{src: src, dst: dst}
	c.run = skipSpace(src, 0)
	i, err := c.value(c.run, depth)
	if err != nil {
		return dst, err
	}
	if i = c.space(i); i < len(src) {
		return dst, unexpected(src, i)
	}
	return append(c.dst, src[c.run:]...), nil
}

// A compactor walks over src by recursive descent. Its methods take the index where they begin and return the index after
// the last byte they read.
type compactor struct {
	src, dst []byte
	run      int // the start of the tokens that are not in dst yet

	scanOnly bool // append nothing
	spaces   int  // how many runs of white space there were
}

func (c *compactor) value(i, depth int) (int, error) {
	if i >= len(c.src) {
		return i, errTruncated
	}
	switch c.src[i] {
	case '{':
		return c.object(i, depth+1)
	case '[':
		return c.array(i, depth+1)
	case '"':
		return scanString(c.src, i)
	case 't':
		return scanWord(c.src, i, "true")
	case 'f':
		return scanWord(c.src, i, "false")
	case 'n':
		return scanWord(c.src, i, "null")
	}
	return scanNumber(c.src, i)
}

func (c *compactor) object(i, depth int) (int, error) {
	if depth > MaxDepth {
		return i, errDepth
	}
	i = c.space(i + 1)
	if i < len(c.src) && c.src[i] == '}' {
		return i + 1, nil
	}
	for {
		var err error
		if err = expect(c.src, i, '"'); err != nil {
			return i, err
		}
		if i, err = scanString(c.src, i); err != nil {
			return i, err
		}
		i = c.space(i)
		if err = expect(c.src, i, ':'); err != nil {
			return i, err
		}
		if i, err = c.value(c.space(i+1), depth); err != nil {
			return i, err
		}
		i = c.space(i)
		if i < len(c.src) && c.src[i] == ',' {
			i = c.space(i + 1)
			continue
		}
		return i + 1, expect(c.src, i, '}')
	}
}

func (c *compactor) array(i, depth int) (int, error) {
	if depth > MaxDepth {
		return i, errDepth
	}
	i = c.space(i + 1)
	if i < len(c.src) && c.src[i] == ']' {
		return i + 1, nil
	}
	for {
		var err error
		if i, err = c.value(i, depth); err != nil {
			return i, err
		}
		i = c.space(i)
		if i < len(c.src) && c.src[i] == ',' {
			i = c.space(i + 1)
			continue
		}
		return i + 1, expect(c.src, i, ']')
	}
}

// space skips white space. It appends the tokens before it to dst.
func (c *compactor) space(i int) int {
	next := skipSpace(c.src, i)
	if next != i {
		c.spaces++
		if !c.scanOnly {
			c.dst = append(c.dst, c.src[c.run:i]...)
			c.run = next
		}
	}
	return next
}

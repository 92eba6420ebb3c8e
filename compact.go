package megaphone

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// maxDepth is how deeply JSON may be nested, the bound that encoding/json has too.
const maxDepth = 10000

var (
	errDepth     = errors.New("nested too deeply")
	errUTF8      = errors.New("it is not UTF-8")
	errTruncated = errors.New("unexpected end")
)

// appendCompact checks that src is exactly one JSON value (RFC 8259) in valid UTF-8 and appends it to dst
// without the white space between its tokens. Everything else stays as it is written: the order and repetition
// of keys, the digits of numbers, the escapes in strings.
//
// The depth is how deeply the value stands in what dst becomes, which consumers are to be able to read.
//
// encoding/json.Compact does the same several times slower (BenchmarkCompact), and every message goes through
// here. FuzzCompact holds the two together.
func appendCompact(dst, src []byte, depth int) ([]byte, error) {
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

// A compactor walks over src by recursive descent. Its methods take the index where they begin, and return the
// index after what they have read.
type compactor struct {
	src, dst []byte
	run      int // where the tokens begin that are not appended to dst yet

	scanOnly bool // nothing is appended
	spaces   int  // how often there was white space
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
	if depth > maxDepth {
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
	if depth > maxDepth {
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

// space skips white space. The tokens before it are appended to dst, and it is not.
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

// expect checks that the byte at i is b.
func expect(src []byte, i int, b byte) error {
	switch {
	case i >= len(src):
		return errTruncated
	case src[i] != b:
		return unexpected(src, i)
	}
	return nil
}

func skipSpace(src []byte, i int) int {
	for i < len(src) && (src[i] == ' ' || src[i] == '\n' || src[i] == '\t' || src[i] == '\r') {
		i++
	}
	return i
}

// plainText returns the index of the first byte from i on that is not plain in a string: a quote, a backslash, or a
// control character. It may return an earlier one, and looks at eight bytes at once: BenchmarkCompact.
func plainText(src []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(src); i += 8 {
		x := binary.LittleEndian.Uint64(src[i:])
		control := x - ones*' '
		quote := x ^ ones*'"'
		backslash := x ^ ones*'\\'
		// In each byte that is below a space, or zero after the exclusive or, the subtraction sets the high bit.
		// A borrow can set it in bytes above such a one too, which the lowest bit that is set does not show.
		found := (control&^x | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
		if found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	return i
}

// scanString returns the index after the string that begins at i.
func scanString(src []byte, i int) (int, error) {
	for i = plainText(src, i+1); i < len(src); i++ {
		switch c := src[i]; {
		case c == '"':
			return i + 1, nil
		case c < ' ':
			return i, unexpected(src, i)
		case c == '\\':
			if i++; i >= len(src) {
				return i, errTruncated
			}
			switch src[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(src) {
						return i, errTruncated
					}
					if c := src[i] | 0x20; (src[i] < '0' || src[i] > '9') && (c < 'a' || c > 'f') {
						return i, unexpected(src, i)
					}
				}
			default:
				return i, unexpected(src, i)
			}
			i = plainText(src, i+1) - 1
		}
	}
	return i, errTruncated
}

func scanWord(src []byte, i int, word string) (int, error) {
	for j := range len(word) {
		if i+j >= len(src) {
			return i, errTruncated
		}
		if src[i+j] != word[j] {
			return i, unexpected(src, i+j)
		}
	}
	return i + len(word), nil
}

// scanNumber returns the index after the number that begins at i (RFC 8259, section 6).
func scanNumber(src []byte, i int) (int, error) {
	if src[i] == '-' {
		i++
	}
	if i < len(src) && src[i] == '0' {
		i++
	} else {
		var err error
		if i, err = scanDigits(src, i); err != nil {
			return i, err
		}
	}
	if i < len(src) && src[i] == '.' {
		var err error
		if i, err = scanDigits(src, i+1); err != nil {
			return i, err
		}
	}
	if i < len(src) && src[i]|0x20 == 'e' {
		i++
		if i < len(src) && (src[i] == '+' || src[i] == '-') {
			i++
		}
		return scanDigits(src, i)
	}
	return i, nil
}

// scanDigits returns the index after the digits at i, of which there must be one at least.
func scanDigits(src []byte, i int) (int, error) {
	start := i
	for i < len(src) && src[i] >= '0' && src[i] <= '9' {
		i++
	}
	switch {
	case i > start:
		return i, nil
	case i >= len(src):
		return i, errTruncated
	}
	return i, unexpected(src, i)
}

func unexpected(src []byte, i int) error {
	r, _ := utf8.DecodeRune(src[i:])
	return fmt.Errorf("unexpected %q at byte %d", r, i)
}

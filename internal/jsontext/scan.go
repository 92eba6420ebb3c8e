package jsontext

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

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

// plainText returns the index of the first byte from i on that needs attention in a string: a quote, a backslash or a
// control character. It may return an earlier index. It looks at eight bytes at once (BenchmarkCompact).
func plainText(src []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(src); i += 8 {
		x := binary.LittleEndian.Uint64(src[i:])
		control := x - ones*' '
		quote := x ^ ones*'"'
		backslash := x ^ ones*'\\'
		// The subtraction sets the high bit of each byte that is below a space, or zero after the exclusive or.
		// A borrow can also set it in the bytes above such a byte. The lowest set bit is always right.
		found := (control&^x | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
		if found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	return i
}

// scanString returns the index after the string that begins at i. The string must be text, so it may have no lone surrogate
// (RFC 8259, 8.2).
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
				var err error
				if i, err = scanUnicode(src, i); err != nil {
					return i, err
				}
			default:
				return i, unexpected(src, i)
			}
			i = plainText(src, i+1) - 1
		}
	}
	return i, errTruncated
}

// scanUnicode returns the index of the last byte of the escape \uXXXX whose u is at i. Two of them that are a surrogate pair
// count as one.
func scanUnicode(src []byte, i int) (int, error) {
	start := i - 1
	for range 4 {
		if i++; i >= len(src) {
			return i, errTruncated
		}
		if c := src[i] | 0x20; (src[i] < '0' || src[i] > '9') && (c < 'a' || c > 'f') {
			return i, unexpected(src, i)
		}
	}
	unit, _ := codeUnit(src[start:])
	if isHighSurrogate(unit) {
		if low, ok := codeUnit(src[i+1:]); ok && isLowSurrogate(low) {
			return i + len(`\udc00`), nil
		}
	}
	if isHighSurrogate(unit) || isLowSurrogate(unit) {
		return start, fmt.Errorf("half of a surrogate pair, %s alone, at byte %d", src[start:i+1], start)
	}
	return i, nil
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

// scanDigits returns the index after the digits at i. There must be at least one.
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

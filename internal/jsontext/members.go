package jsontext

import "unicode/utf8"

// Members checks that src is exactly one JSON object in valid UTF-8, and calls member for each member in order. The value
// is the member's text without surrounding white space; compact says that it has none between its tokens either. Members
// stops at the first error of member and returns it.
//
// The names and values share memory with src. Nothing is allocated for an object without escapes in its names.
func Members(src []byte, member func(name, value []byte, compact bool) error) error {
	if !utf8.Valid(src) {
		return errUTF8
	}
	c := compactor{src: src, scanOnly: true}
	i := c.space(0)
	if err := expect(src, i, '{'); err != nil {
		return err
	}
	i = c.space(i + 1)
	for more := i < len(src) && src[i] != '}'; more; {
		name, next, err := nameAt(src, i)
		if err != nil {
			return err
		}
		i = c.space(next)
		if err := expect(src, i, ':'); err != nil {
			return err
		}
		start := c.space(i + 1)
		spaces := c.spaces
		end, err := c.value(start, 1)
		if err != nil {
			return err
		}
		if err := member(name, src[start:end], c.spaces == spaces); err != nil {
			return err
		}
		i = c.space(end)
		if more = i < len(src) && src[i] == ','; more {
			i = c.space(i + 1)
		}
	}
	if err := expect(src, i, '}'); err != nil {
		return err
	}
	if i = c.space(i + 1); i < len(src) {
		return unexpected(src, i)
	}
	return nil
}

// nameAt returns the text of the JSON string at i, and the index after it.
func nameAt(src []byte, i int) (text []byte, next int, err error) {
	if err := expect(src, i, '"'); err != nil {
		return nil, i, err
	}
	next, err = scanString(src, i)
	if err != nil {
		return nil, next, err
	}
	text, ok := Text(src[i:next])
	if !ok {
		return nil, i, unexpected(src, i) // it was scanned, so this is not expected
	}
	return text, next, nil
}

package jsontext

import (
	"bytes"
	"encoding/json"
)

// AppendString appends s as a JSON string. Nearly every stream id needs no escape.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always has a JSON form
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// Text returns the text of a JSON string that has been checked. It reports false if the value is not a string. Unless the
// string has escapes, the text shares memory with the value.
func Text(value []byte) (text []byte, ok bool) {
	if value[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1], true
	}
	var unescaped string
	if err := json.Unmarshal(value, &unescaped); err != nil {
		return nil, false
	}
	return []byte(unescaped), true
}

// StringEnd returns the index after the JSON string that begins at i.
func StringEnd(src []byte, i int) (int, error) {
	if err := expect(src, i, '"'); err != nil {
		return i, err
	}
	return scanString(src, i)
}

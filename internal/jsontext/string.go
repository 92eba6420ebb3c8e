package jsontext

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"unicode/utf8"
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
	if json.Unmarshal(value, &unescaped) != nil {
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

// hasLoneSurrogate reports whether a string in JSON text that encoding/json has checked has an escape such as \ud800 without the
// other half of its pair (RFC 8259, 8.2). Such a string is no text: encoding/json makes U+FFFD of it, so that different
// strings become the same.
func hasLoneSurrogate(text []byte) bool {
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 || i+1 >= len(text) {
			return false
		}
		text = text[i:]
		unit, ok := codeUnit(text)
		switch {
		case !ok:
			text = text[len(`\n`):]
			continue
		case isLowSurrogate(unit):
			return true
		}
		text = text[len(`\ud800`):]
		if isHighSurrogate(unit) {
			if unit, ok = codeUnit(text); !ok || !isLowSurrogate(unit) {
				return true
			}
			text = text[len(`\udc00`):]
		}
	}
}

// codeUnit returns what the escape \uXXXX at the beginning of text stands for. It reports false if there is none.
func codeUnit(text []byte) (unit uint64, ok bool) {
	if len(text) < len(`\ud800`) || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return unit, err == nil
}

func isHighSurrogate(unit uint64) bool { return 0xd800 <= unit && unit < 0xdc00 }
func isLowSurrogate(unit uint64) bool  { return 0xdc00 <= unit && unit < 0xe000 }

// loneSurrogate is what the errors of String and Strings call a value with a lone surrogate.
const loneSurrogate = `string with half of a surrogate pair, such as \ud800 alone,`

// A String is a string that encoding/json does not decode from JSON with a lone surrogate.
type String string

// UnmarshalJSON implements [json.Unmarshaler]. The errors are those of a string, so that they name the field.
func (s *String) UnmarshalJSON(value []byte) error {
	if bytes.IndexByte(value, '\\') < 0 && value[0] == '"' && utf8.Valid(value) {
		*s = String(value[1 : len(value)-1])
		return nil
	}
	if hasLoneSurrogate(value) {
		return &json.UnmarshalTypeError{Value: loneSurrogate, Type: reflect.TypeFor[string]()}
	}
	return json.Unmarshal(value, (*string)(s))
}

// Strings are strings that encoding/json does not decode from JSON with a lone surrogate.
type Strings []string

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Strings) UnmarshalJSON(value []byte) error {
	*s = nil
	if err := json.Unmarshal(value, (*[]string)(s)); err != nil {
		return err
	}
	if hasLoneSurrogate(value) {
		return &json.UnmarshalTypeError{Value: loneSurrogate, Type: reflect.TypeFor[string]()}
	}
	return nil
}

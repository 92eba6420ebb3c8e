package jsontext

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Explain says what is wrong with JSON, in the words of JSON: err is what encoding/json has returned for it. The errors of
// encoding/json speak of Go's types, which mean nothing to whoever has sent the JSON.
func Explain(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := fmt.Sprintf("%s where %s belongs", valueName(e.Value), typeName(e.Type))
		if e.Field == "" {
			return "there is " + what
		}
		return fmt.Sprintf("%q has %s", e.Field, what)
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Offset > 0 && !strings.Contains(text, "unexpected end") {
		return fmt.Sprintf("%s, at byte %d", text, e.Offset-1)
	}
	return text
}

// valueName names a value that encoding/json calls by its kind, such as "array" or "number 1.5".
func valueName(value string) string {
	switch value {
	case "bool":
		return "true or false"
	case "array", "object":
		return "an " + value
	case "number", "string", loneSurrogate:
		return "a " + value
	}
	return "the " + value
}

// typeName names the values that become a Go type.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	default:
		return "something else"
	}
}

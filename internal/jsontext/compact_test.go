package jsontext

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzCompact compares AppendCompact with encoding/json, which lets lone surrogates through.
func FuzzCompact(f *testing.F) {
	for _, seed := range []string{
		`{"b" : 1, "a": [ ], "b":{ } }`, ` "\u00e9\ud83d\ude00\n" `, ` "\u00e9\ud800\n" `, `-0.50E+10`, `01`, `1.`, `[1,]`, `{"a":1,}`, `{"a"}`, `tru`, `nul l`,
		"\"\x00\"", "\"\xff\"", `"\x"`, `"\u12"`, ``, ` `, `1 2`, `[[[[]]]]`, `[}`, `-`, `+1`, `.5`, `1e`, "\v1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		got, err := AppendCompact([]byte("x"), src, 0)
		if valid := json.Valid(src) && utf8.Valid(src) && !hasLoneSurrogate(src); valid != (err == nil) {
			t.Fatalf("%q: error %v, want valid: %v", src, err, valid)
		}
		if err != nil {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, src); err != nil {
			t.Fatal(err)
		}
		if string(got) != "x"+want.String() {
			t.Errorf("%q becomes %q, want %q", src, got[1:], want.Bytes())
		}
	})
}

func TestAppendCompactBoundsDepth(t *testing.T) {
	for depth, valid := range map[int]bool{MaxDepth: true, MaxDepth + 1: false} {
		for _, brackets := range [][2]string{{"[", "]"}, {`{"a":`, "}"}} {
			src := strings.Repeat(brackets[0], depth) + "1" + strings.Repeat(brackets[1], depth)
			if _, err := AppendCompact(nil, []byte(src), 0); (err == nil) != valid {
				t.Errorf("depth %d: %v", depth, err)
			}
		}
	}
}

// BenchmarkCompact compares AppendCompact with encoding/json.
func BenchmarkCompact(b *testing.B) {
	src := []byte(`{"user": "ada", "text": "hello, world", "n": [1, 2.5, -3e10], "ok": true, "nested": {"a": null}}`)
	b.Run("AppendCompact", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		var dst []byte
		for b.Loop() {
			dst, _ = AppendCompact(dst[:0], src, 0)
		}
	})
	b.Run("json.Compact", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		var dst bytes.Buffer
		for b.Loop() {
			dst.Reset()
			_ = json.Compact(&dst, src)
		}
	})
}

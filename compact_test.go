package megaphone

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzCompact(f *testing.F) {
	for _, seed := range []string{
		`{"b" : 1, "a": [ ], "b":{ } }`, ` "\u00e9\ud800\n" `, `-0.50E+10`, `01`, `1.`, `[1,]`, `{"a":1,}`, `{"a"}`, `tru`, `nul l`,
		"\"\x00\"", "\"\xff\"", `"\x"`, `"\u12"`, ``, ` `, `1 2`, `[[[[]]]]`, `[}`, `-`, `+1`, `.5`, `1e`, "\v1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		got, err := appendCompact([]byte("x"), src, 0)
		if valid := json.Valid(src) && utf8.Valid(src); valid != (err == nil) {
			t.Fatalf("%q: error %v, but valid: %v", src, err, valid)
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

func TestCompactBoundsDepth(t *testing.T) {
	for depth, valid := range map[int]bool{maxDepth: true, maxDepth + 1: false} {
		for _, brackets := range [][2]string{{"[", "]"}, {`{"a":`, "}"}} {
			src := strings.Repeat(brackets[0], depth) + "1" + strings.Repeat(brackets[1], depth)
			if _, err := appendCompact(nil, []byte(src), 0); (err == nil) != valid {
				t.Errorf("depth %d: %v", depth, err)
			}
		}
	}
}

// FuzzEnvelope holds the reader of ingested lines together with encoding/json.
func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{
		`{"channel":"a.b","streamId":"s","body":{"n": 1}}`, ` {"body" : [ 1 , 2 ] ,"key":"k", "x":[{}], "streamId":"\u00e9","channel":"c"} `,
		`{"channel":"a" "streamId":"b","body":1}`, `{"channel":1,"streamId":"s","body":1}`, `{"channel":"c","streamId":"","body":1}`,
		`{"channel":"c","streamId":"s"}`, `{,}`, `{"a":1,}`, `[]`, `{`, `{"channel":"c","streamId":"s","body":null,"key":""}`,
		`{"chann\u0065l":"c","streamId":"s","body":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEnvelope(line)
		if err != nil {
			return
		}
		if !json.Valid(line) || !utf8.Valid(line) {
			t.Fatalf("%q is taken", line)
		}
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(line, &members); err != nil {
			t.Fatal(err)
		}
		var channel, streamID string
		if json.Unmarshal(members["channel"], &channel) != nil || json.Unmarshal(members["streamId"], &streamID) != nil {
			t.Fatalf("%q is taken", line)
		}
		m, err := e.message()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var got struct {
			SID  string          `json:"sid"`
			Body json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(m.JSON(), &got); err != nil {
			t.Fatalf("%q becomes %q: %v", line, m.JSON(), err)
		}
		var body bytes.Buffer
		if err := json.Compact(&body, members["body"]); err != nil {
			t.Fatal(err)
		}
		if string(e.channel) != channel || got.SID != streamID || string(got.Body) != body.String() {
			t.Errorf("%q becomes %q for %q", line, m.JSON(), e.channel)
		}
	})
}

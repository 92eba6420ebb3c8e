package broker_test

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/caddy-megaphone/megaphone/broker"
)

// message makes a message that is merged.
func message(t interface{ Fatal(...any) }, stream, body string, how broker.Merge) *broker.Message {
	m, err := broker.NewMessage(stream, []byte(body), "")
	if err != nil {
		t.Fatal(err)
	}
	return m.WithMerge(how)
}

// TestMergedBodies: what two bodies become, and which two bodies stay two messages.
func TestMergedBodies(t *testing.T) {
	for _, c := range []struct {
		older, newer string
		want         string // "" if they are not merged
	}{
		{`"ab"`, `"cd"`, `"abcd"`},
		{`""`, `""`, `""`},
		{`""`, `"a"`, `"a"`},
		{`"a"`, `""`, `"a"`},
		{`"a\""`, `"\\b"`, `"a\"\\b"`},
		{`[1]`, `[2]`, `[1,2]`},
		{`[]`, `[]`, `[]`},
		{`[]`, `[2]`, `[2]`},
		{`[1]`, `[]`, `[1]`},
		{`[[]]`, `["]"]`, `[[],"]"]`},
		{`[1]`, `"a"`, ``},
		{`"a"`, `[1]`, ``},
		{`{}`, `{}`, ``},
		{`1`, `2`, ``},
		{`null`, `null`, ``},
		{`true`, `true`, ``},
	} {
		a, b := message(t, "s", c.older, broker.MergeAppend), message(t, "s", c.newer, broker.MergeAppend)
		if got := b.CanMerge(a, 1000); got != (c.want != "") {
			t.Errorf("%s + %s: CanMerge is %v", c.older, c.newer, got)
			continue
		}
		if c.want == "" {
			continue
		}
		if m := b.MergeWith(a); string(m.Body()) != c.want {
			t.Errorf("%s + %s is %s, want %s", c.older, c.newer, m.Body(), c.want)
		}
		if b.CanMerge(a, int64(len(c.want))-1) || !b.CanMerge(a, int64(len(c.want))) {
			t.Errorf("%s + %s does not keep to the size of %s", c.older, c.newer, c.want)
		}
	}
}

// TestWhatIsMerged: both messages must have the same stream id, as text, and ask for the same.
func TestWhatIsMerged(t *testing.T) {
	none, replace, appends := broker.MergeNone, broker.MergeReplace, broker.MergeAppend
	for _, c := range []struct {
		older, newer         string
		mergeOlder, mergeNew broker.Merge
		want                 bool
	}{
		{"s", "s", replace, replace, true},
		{"s", "s", appends, appends, true},
		{"s", "s", none, none, false},
		{"s", "s", none, replace, false},
		{"s", "s", replace, none, false},
		{"s", "s", replace, appends, false},
		{"s", "s", appends, replace, false},
		{"s", "t", replace, replace, false},
		{"s", "ss", appends, appends, false},
		{"a\nb", "a\nb", appends, appends, true},
	} {
		a, b := message(t, c.older, `"a"`, c.mergeOlder), message(t, c.newer, `"b"`, c.mergeNew)
		if got := b.CanMerge(a, 1000); got != c.want {
			t.Errorf("%+v: CanMerge is %v", c, got)
		}
	}
	// The same text, written in two ways.
	a, err := broker.NewMessageFromJSON([]byte(`"\u0073\n"`), []byte(`"a"`), true, "")
	if err != nil {
		t.Fatal(err)
	}
	if !message(t, "s\n", `"b"`, appends).CanMerge(a.WithMerge(appends), 1000) {
		t.Error("an escape in the stream id makes it another one")
	}
	// What is replaced may be anything.
	a, b := message(t, "s", `{"a":1}`, replace), message(t, "s", `"b"`, replace)
	if !b.CanMerge(a, 0) || b.MergeWith(a) != b {
		t.Error("a message does not replace one of another kind")
	}
}

// TestAMergedMessageIsTheNewest: it has the newest's id, time, stream and key, and can be restored and merged again.
func TestAMergedMessageIsTheNewest(t *testing.T) {
	a := message(t, "s", `"a"`, broker.MergeAppend)
	b, err := broker.NewMessage("s", []byte(`"b"`), "key")
	if err != nil {
		t.Fatal(err)
	}
	before := string(b.Line())
	m := b.WithMerge(broker.MergeAppend).MergeWith(a)
	if m.ID() != b.ID() || !m.Time().Equal(b.Time()) || m.Accepted() != b.Accepted() || m.StreamID() != "s" || !m.Keyed() ||
		m.Merge() != broker.MergeAppend || string(m.Line()) != strings.Replace(before, `"b"}`, `"ab"}`, 1) {
		t.Errorf("the merged message is %s", m.Line())
	}
	if string(b.Line()) != before {
		t.Errorf("the message that was merged has changed: %s", b.Line())
	}
	restored, err := broker.RestoreLine(slices.Clone(m.Line()), true)
	if err != nil || string(restored.Body()) != `"ab"` {
		t.Fatalf("it is restored as %+v, error %v", restored, err)
	}
	c := message(t, "s", `"c"`, broker.MergeAppend)
	if m := c.MergeWith(restored.WithMerge(broker.MergeAppend)); string(m.Body()) != `"abc"` || m.Keyed() {
		t.Errorf("merged again, it is %s", m.Line())
	}
	if missed := m.Missed(3); string(c.MergeWith(missed).Body()) != `"abc"` {
		t.Error("what a channel has missed is merged as text")
	}
}

func TestMergeNames(t *testing.T) {
	for _, how := range []broker.Merge{broker.MergeReplace, broker.MergeAppend} {
		if got, ok := broker.ParseMerge(how.String()); got != how || !ok {
			t.Errorf("%q is read as %v, %v", how, got, ok)
		}
	}
	for _, name := range []string{"", "none", "Replace", "append "} {
		if how, ok := broker.ParseMerge(name); ok || how != broker.MergeNone {
			t.Errorf("%q is read as %v, %v", name, how, ok)
		}
	}
}

// TestMergedPiecesAreTheWhole: bodies that are merged, in any order of steps, decode to what their parts decode to, joined.
func TestMergedPiecesAreTheWhole(t *testing.T) {
	piece := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune{'"', '\\', 'é', '😀', '\n', ']', '[', ','})))
	rapid.Check(t, func(t *rapid.T) {
		want := ""
		var merged *broker.Message
		for _, text := range rapid.SliceOfN(piece, 1, 8).Draw(t, "pieces") {
			runes := []rune(text)
			cut := rapid.IntRange(0, len(runes)).Draw(t, "cut")
			for _, part := range [][]rune{runes[:cut], runes[cut:]} {
				m := message(t, "s", quote(utf16.Encode(part), rapid.Bool().Draw(t, "escaped")), broker.MergeAppend)
				if merged != nil {
					if !m.CanMerge(merged, math.MaxInt64) {
						t.Fatalf("%s is not merged with %s", m.Body(), merged.Body())
					}
					m = m.MergeWith(merged)
				}
				merged = m
			}
			want += text
		}
		var got string
		if err := json.Unmarshal(merged.Body(), &got); err != nil || got != want {
			t.Fatalf("the whole is %q, error %v, want %q", got, err, want)
		}
	})
}

// quote writes text as a JSON string. It writes halves of pairs, and all if escaped is true, as escapes.
func quote(units []uint16, escaped bool) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(units); i++ {
		r := rune(units[i])
		if utf16.IsSurrogate(r) && i+1 < len(units) {
			if pair := utf16.DecodeRune(r, rune(units[i+1])); pair != '\ufffd' && !escaped {
				b.WriteRune(pair)
				i++
				continue
			}
		}
		if escaped || utf16.IsSurrogate(r) || r < ' ' || r == '"' || r == '\\' {
			const digits = "0123456789abcdef"
			b.WriteString(`\u`)
			for shift := 12; shift >= 0; shift -= 4 {
				b.WriteByte(digits[r>>shift&15])
			}
			continue
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}

// FuzzMergedArrays: any two arrays become one array of the elements of both.
func FuzzMergedArrays(f *testing.F) {
	f.Add(`[1, "]"]`, `[ ]`)
	f.Add(`[]`, `[[], {"a":[1]}]`)
	f.Fuzz(func(t *testing.T, older, newer string) {
		var a, b, got []any
		if !utf8.ValidString(older+newer) || json.Unmarshal([]byte(older), &a) != nil || json.Unmarshal([]byte(newer), &b) != nil || a == nil || b == nil {
			return
		}
		m := message(t, "s", newer, broker.MergeAppend).MergeWith(message(t, "s", older, broker.MergeAppend))
		if err := json.Unmarshal(m.Body(), &got); err != nil || !reflect.DeepEqual(got, append(a, b...)) {
			t.Errorf("%s + %s is %s, error %v", older, newer, m.Body(), err)
		}
	})
}

package megaphone

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzEnvelope checks that parseEnvelope accepts only what encoding/json accepts, with the same result.
func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{
		`{"channel":"a.b","streamId":"s","body":{"n": 1}}`, ` {"body" : [ 1 , 2 ] ,"key":"k", "x":[{}], "streamId":"\u00e9","channel":"c"} `,
		`{"channel":"a" "streamId":"b","body":1}`, `{"channel":1,"streamId":"s","body":1}`, `{"channel":"c","streamId":"","body":1}`,
		`{"channel":"c","streamId":"s"}`, `{,}`, `{"a":1,}`, `[]`, `{`, `{"channel":"c","streamId":"s","body":null,"key":""}`,
		`{"chann\u0065l":"c","streamId":"s","body":1}`, `{"channel":"c","streamId":"s","body":1,"merge":"append"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEnvelope(line)
		if err != nil {
			return
		}
		if !json.Valid(line) || !utf8.Valid(line) {
			t.Fatalf("%q is accepted", line)
		}
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(line, &members); err != nil {
			t.Fatal(err)
		}
		var channel, streamID string
		if json.Unmarshal(members["channel"], &channel) != nil || json.Unmarshal(members["streamId"], &streamID) != nil {
			t.Fatalf("%q is accepted", line)
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

// BenchmarkEnvelope compares parseEnvelope with encoding/json.
func BenchmarkEnvelope(b *testing.B) {
	line := []byte(`{"channel":"main.AAAAAAAAAAAAAAAAAAAAAA","streamId":"stream","body":{"user":"ada","text":"hello, world"}}`)
	b.Run("parseEnvelope", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		for b.Loop() {
			if _, err := parseEnvelope(line); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("json.Unmarshal", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		for b.Loop() {
			var e struct {
				Channel  string          `json:"channel"`
				StreamID string          `json:"streamId"`
				Body     json.RawMessage `json:"body"`
			}
			if err := json.Unmarshal(line, &e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

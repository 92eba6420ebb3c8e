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
		`{"chann\u0065l":"c","streamId":"s","body":1}`, `{"topic":"t\u00e9","streamId":"s","body":1}`, `{"topic":"t","channel":"c","streamId":"s","body":1}`,
		`{"topic":"","streamId":"s","body":1}`, `{"topic":null,"channel":"c","streamId":"s","body":1}`,
		`{"channel":"c","streamId":"s","body":1,"merge":"append"}`,
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
		name, got := "channel", e.channel
		if e.topic != nil {
			name, got = "topic", e.topic
		}
		var target, streamID string
		if json.Unmarshal(members[name], &target) != nil || json.Unmarshal(members["streamId"], &streamID) != nil || string(got) != target {
			t.Fatalf("%q is accepted for %s %q", line, name, got)
		}
		if members["channel"] != nil && members["topic"] != nil {
			t.Fatalf("%q is accepted for two", line)
		}
		m, err := e.message()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var sent struct {
			SID  string          `json:"sid"`
			Body json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(m.JSON(), &sent); err != nil {
			t.Fatalf("%q becomes %q: %v", line, m.JSON(), err)
		}
		var body bytes.Buffer
		if err := json.Compact(&body, members["body"]); err != nil {
			t.Fatal(err)
		}
		if sent.SID != streamID || string(sent.Body) != body.String() {
			t.Errorf("%q becomes %q for %s %q", line, m.JSON(), name, got)
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

package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestLoneSurrogates(t *testing.T) {
	for text, lone := range map[string]bool{
		`""`: false, `"a"`: false, `"\n\\"`: false, `"\u00e9"`: false, `"\ud83d\ude00"`: false, `"\uD83D\uDE00\uD83D\uDE00"`: false,
		`"\\ud800"`: false, `"\\\\ud800"`: false, `"\ufffd"`: false, `"\ud7ff\ue000"`: false,
		`"\ud800"`: true, `"\uDFFF"`: true, `"a\ud83d"`: true, `"\ud83da"`: true, `"\ude00\ud83d"`: true, `"\ud83d\ud83d\ude00"`: true,
		`"\ud83d\n"`: true, `"\ud83d\\ude00"`: true, `"\\\ud800"`: true, `"\ud83d\u00e9"`: true,
	} {
		if got := hasLoneSurrogate([]byte(text)); got != lone {
			t.Errorf("%s: %v, want %v", text, got, lone)
		}
		for _, src := range []string{text, "[" + text + "]", `{"a":` + text + "}", "{" + text + ":1}"} {
			_, err := AppendCompact(nil, []byte(src), 0)
			if (err != nil) != lone || lone && !strings.Contains(err.Error(), "half of a surrogate pair, ") {
				t.Errorf("%s: %v", src, err)
			}
		}
		err := Members([]byte(`{"a":`+text+`}`), func(_, _ []byte, _ bool) error { return nil })
		if (err != nil) != lone {
			t.Errorf("a member %s: %v", text, err)
		}
		var s String
		if err := json.Unmarshal([]byte(text), &s); (err != nil) != lone {
			t.Errorf("String of %s: %v", text, err)
		}
		var all Strings
		if err := json.Unmarshal([]byte(`["x",`+text+`]`), &all); (err != nil) != lone {
			t.Errorf("Strings of %s: %v", text, err)
		}
	}
}

// FuzzString checks that String has what encoding/json makes of a string, unless that replaces something.
func FuzzString(f *testing.F) {
	for _, seed := range []string{`"a"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\n\u00e9"`, `null`, `1`, `"` + "\xff" + `"`, `"\ufffd"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want string
		wantErr := json.Unmarshal(text, &want)
		var got String
		err := json.Unmarshal(text, &got)
		switch {
		case wantErr != nil && err == nil:
			t.Fatalf("%q is accepted", text)
		case wantErr == nil && err != nil && strings.Count(want, "\ufffd") == 0:
			t.Fatalf("%q: %v", text, err)
		case err == nil && string(got) != want:
			t.Fatalf("%q becomes %q, want %q", text, got, want)
		}
	})
}

func TestExplanationsSpeakOfJSON(t *testing.T) {
	type item struct {
		Name  String  `json:"name"`
		Count int     `json:"count"`
		Ratio float64 `json:"ratio"`
		Flag  *bool   `json:"flag"`
	}
	type request struct {
		List  Strings        `json:"list"`
		Items []item         `json:"items"`
		Map   map[string]int `json:"map"`
		Item  *item          `json:"item"`
	}
	for text, want := range map[string]string{
		`[]`:                            "there is an array where an object belongs",
		`1`:                             "there is a number where an object belongs",
		`{"list":1}`:                    `"list" has a number where an array belongs`,
		`{"list":[true]}`:               `"list" has true or false where a string belongs`,
		`{"list":["\ud800"]}`:           `"list" has a string with half of a surrogate pair, such as \ud800 alone, where a string belongs`,
		`{"items":{}}`:                  `"items" has an object where an array belongs`,
		`{"items":[1]}`:                 `"items" has a number where an object belongs`,
		`{"items":[{"name":5}]}`:        `"items.name" has a number where a string belongs`,
		`{"items":[{"name":"\udfff"}]}`: `"items.name" has a string with half of a surrogate pair, such as \ud800 alone, where a string belongs`,
		`{"item":{"count":"1"}}`:        `"item.count" has a string where a whole number belongs`,
		`{"item":{"count":1.5}}`:        `"item.count" has the number 1.5 where a whole number belongs`,
		`{"item":{"ratio":[]}}`:         `"item.ratio" has an array where a number belongs`,
		`{"item":{"flag":"yes"}}`:       `"item.flag" has a string where true or false belongs`,
		`{"map":[]}`:                    `"map" has an array where an object belongs`,
		`{"map":{"a":"b"}}`:             `"map" has a string where a whole number belongs`,
		``:                              "unexpected end of JSON input",
		`{"list":`:                      "unexpected end of JSON input",
		`{"list":x}`:                    "invalid character 'x' looking for beginning of value, at byte 8",
	} {
		err := json.Unmarshal([]byte(text), new(request))
		if err == nil {
			t.Errorf("%s is accepted", text)
		} else if got := Explain(err); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

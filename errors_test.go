package megaphone_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// goWords are words that only programmers of this server understand.
var goWords = regexp.MustCompile(`\bGo\b|json:|unmarshal|struct|interface|strconv|megaphone\.|jsontext|\bEOF\b|runtime|gzip:|zstd:|magic`)

// TestErrorsSpeakOfTheRequest: whatever is wrong with a request, the reply says it in the request's words.
func TestErrorsSpeakOfTheRequest(t *testing.T) {
	s := serve(t, "", "megaphone create write read exists manage")
	c := s.create()
	for _, test := range []struct{ path, body, want string }{
		{c.writePath(), `{"a":`, "the body is not JSON: unexpected end"},
		{c.writePath(), `{"a":x}`, "the body is not JSON: unexpected 'x' at byte 5"},
		{"/write-batch", `[]`, "there is an array where an object belongs"},
		{"/write-batch", `"a"`, "there is a string where an object belongs"},
		{"/write-batch", `{"channels":"a","messages":[]}`, `\"channels\" has a string where an array belongs`},
		{"/write-batch", `{"channels":[1],"messages":[]}`, `\"channels\" has a number where a string belongs`},
		{"/write-batch", `{"channels":["a"],"messages":{}}`, `\"messages\" has an object where an array belongs`},
		{"/write-batch", `{"channels":["a"],"messages":["a"]}`, `\"messages\" has a string where an object belongs`},
		{"/write-batch", `{"channels":["a"],"messages":[{"streamId":["x"],"body":1}]}`, `\"messages.streamId\" has an array where a string belongs`},
		{"/write-batch", `{"channels":["a"],"messages":[{"streamId":"s","body":1,"key":{}}]}`, `\"messages.key\" has an object where a string belongs`},
		{"/write-batch", `{"channels":["a"],"messages":[{"streamId":"\ud800","body":1}]}`, `\"messages.streamId\" has a string with half of a surrogate pair`},
		{"/write-batch", `{"channels":["a"],"messages":[{"streamId":"s","body":1,"key":"\udc00"}]}`, `\"messages.key\" has a string with half of a surrogate pair`},
		{"/write-batch", `{"channels":["\ud83d\ud83d"],"messages":[]}`, `\"channels\" has a string with half of a surrogate pair`},
		{"/write-batch", `{"channels":`, "unexpected end"},
		{"/write-batch", `{} {}`, "invalid character '{' after top-level value, at byte 3"},
		{"/channelsExists", `{"channels":{}}`, `\"channels\" has an object where an array belongs`},
		{"/channelsExists", `{"channelIds":["\uDFFF"]}`, `\"channelIds\" has a string with half of a surrogate pair`},
		{"/channelsExists", ``, "unexpected end"},
	} {
		r := s.post(test.path, test.body)
		r.wantError(t, http.StatusBadRequest, "BAD_REQUEST")
		if !strings.Contains(r.body, test.want) || goWords.MatchString(r.body) {
			t.Errorf("%s %s: %s, want %s", test.path, test.body, r.body, test.want)
		}
	}
	for _, query := range []string{"poll=x", "poll=-1s", "poll=1&poll=2", "poll=99999999999999999999s", "poll=0&after=a&after=b"} {
		r := s.get(c.readPath() + "?" + query)
		r.wantError(t, http.StatusBadRequest, "BAD_REQUEST")
		if goWords.MatchString(r.body) {
			t.Errorf("%s: %s", query, r.body)
		}
	}
	for _, coding := range []string{"gzip", "zstd"} {
		r := s.do(http.MethodPost, c.writePath(), http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {coding}}, strings.NewReader("1"))
		if r.wantError(t, http.StatusBadRequest, "BAD_REQUEST"); goWords.MatchString(r.body) {
			t.Errorf("%s: %s", coding, r.body)
		}
	}
}

// TestHalvesOfCharactersAreNoText: a stream id, a key or an address with half of a surrogate pair would become another one.
// Consumers that decode a body with one fail or get something else.
func TestHalvesOfCharactersAreNoText(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	lines := strings.Join([]string{
		`{"channel":"` + c.ProducerAddress + `","streamId":"\ud800","body":1}`,
		`{"channel":"` + c.ProducerAddress + `\udc00","streamId":"s","body":2}`,
		`{"channel":"` + c.ProducerAddress + `","streamId":"s","body":3,"key":"\udc00"}`,
		`{"channel":"` + c.ProducerAddress + `","streamId":"\ud83d\ude00","body":"\ud83d"}`,
		`{"channel":"` + c.ProducerAddress + `","streamId":"\ud83d\ude00","body":"\ud83d\ude00"}`,
	}, "\n")
	r := s.ingest(strings.NewReader(lines))
	if !strings.Contains(r.body, `"written":1,`) || strings.Count(r.body, `"reason":"BAD_REQUEST"`) != 4 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	r = s.post("/write-batch", `{"channels":["`+c.ProducerAddress+`"],"messages":[{"streamId":"\ud83d\ude00","body":["\ud83d\ude00"],"key":"\u0061"}]}`)
	if r.body != `{"failures":[]}` {
		t.Error(r.body)
	}
	r = s.poll(c)
	if strings.Count(r.body, "\n") != 2 || strings.Count(r.body, `"sid":"😀"`) != 2 ||
		!strings.Contains(r.body, `"body":"\ud83d\ude00"}`) || !strings.Contains(r.body, `"body":["\ud83d\ude00"]}`) {
		t.Error(r.body)
	}
	const half = `{"a":["\ude00"]}`
	s.post("/write-batch", `{"channels":["`+c.ProducerAddress+`"],"messages":[{"streamId":"s","body":`+half+`}]}`).wantError(t, 400, "BAD_REQUEST")
	if r = s.post(c.writePath(), half); !strings.Contains(r.body, `half of a surrogate pair, \\ude00 alone, at byte 7`) {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	s.post("/write/"+c.ProducerAddress+"/%ED%A0%80", "1").wantError(t, 400, "BAD_REQUEST")
	s.post(c.writePath(), "\"\xed\xa0\x80\"").wantError(t, 400, "BAD_REQUEST")
}

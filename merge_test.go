package megaphone_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// merging is the header of a write that is merged.
func merging(how ...string) http.Header {
	return http.Header{"Content-Type": {"application/json"}, "Megaphone-Merge": how}
}

// TestEveryWayToWriteMerges: a write, a batch and an ingest, one after the other, for a reader who is away.
func TestEveryWayToWriteMerges(t *testing.T) {
	s := serve(t, "", "megaphone")
	for how, want := range map[string][]string{
		"replace": {`"0"`, `"6"`},
		"append":  {`"0"`, `"123456"`},
	} {
		c := s.create()
		s.write(c, `"0"`)
		for _, body := range []string{`"1"`, `"2"`} {
			if r := s.do(http.MethodPost, c.writePath(), merging(how), strings.NewReader(body)); r.StatusCode != http.StatusCreated {
				t.Fatalf("%d %s", r.StatusCode, r.body)
			}
		}
		s.post("/write-batch", fmt.Sprintf(`{"channels":[%q],"messages":[{"streamId":"stream","body":"3","merge":%q},`+
			`{"streamId":"stream","merge":%[2]q,"body":"4"}]}`, c.ProducerAddress, how))
		lines := fmt.Sprintf(`{"channel":%q,"streamId":"stream","body":"5","merge":%q}`+"\n"+`{"merge":%[2]q,"channel":%[1]q,"streamId":"str\u0065am","body":"6"}`,
			c.ProducerAddress, how)
		if r := s.ingest(strings.NewReader(lines)); r.body != `{"written":2,"failures":[],"failuresTotal":0}` {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		s.read(c).wants(want...)
	}
	s.wantMetrics(map[string]float64{"messages_accepted_total": 14, "messages_replaced_total": 5, "messages_appended_total": 5})
}

// TestWhatIsMergedIsSaidClearly: any other value is refused, and the reply says which ones there are.
func TestWhatIsMergedIsSaidClearly(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	helps := func(what string, r reply) {
		t.Helper()
		r.wantError(t, 400, "BAD_REQUEST")
		if !strings.Contains(r.body, what) || !strings.Contains(r.body, `by \"replace\" or \"append\"`) {
			t.Errorf("the reply is %s", r.body)
		}
	}
	for _, values := range [][]string{{""}, {"none"}, {"Append"}, {"append, append"}, {"append", "append"}} {
		helps("Megaphone-Merge", s.do(http.MethodPost, c.writePath(), merging(values...), strings.NewReader("1")))
	}
	for _, value := range []string{`""`, `"none"`, `"APPEND"`} {
		helps("messages[1]", s.post("/write-batch", fmt.Sprintf(
			`{"channels":[%q],"messages":[{"streamId":"s","body":1},{"streamId":"s","body":1,"merge":%s}]}`, c.ProducerAddress, value)))
	}
	for _, value := range []string{`""`, `"none"`, `null`, `1`, `"\ud800"`} {
		line := fmt.Sprintf(`{"channel":%q,"streamId":"s","body":1,"merge":%s}`, c.ProducerAddress, value)
		want := fmt.Sprintf(`"failures":[{"channel":%q,"index":0,"reason":"BAD_REQUEST"}]`, c.ProducerAddress)
		if r := s.ingest(strings.NewReader(line)); !strings.Contains(r.body, want) {
			t.Errorf("%s: the reply is %s", line, r.body)
		}
	}
}

// TestTheWholeStaysWithinTheLimit on messages.
func TestTheWholeStaysWithinTheLimit(t *testing.T) {
	s := serve(t, "megaphone {\nmax_message_size 100B\n}", "megaphone")
	c := s.create()
	for range 5 {
		s.do(http.MethodPost, c.writePath(), merging("append"), strings.NewReader(strconv.Quote(strings.Repeat("x", 49))))
	}
	two := strconv.Quote(strings.Repeat("x", 98))
	s.read(c).wants(two, two, strconv.Quote(strings.Repeat("x", 49)))
}

// TestDirectWritesAreMerged as others are, and a full buffer does not hold them.
func TestDirectWritesAreMerged(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\nhold 0\n}", "megaphone")
	for how, want := range map[string]string{"append": `"` + strings.Repeat("x", 3*enough) + `"`, "replace": `"x"`} {
		c, client := s.create(), s.rawClient()
		for range 3 * enough {
			client.send(writeRequest(c.ProducerAddress, `"x"`, "Megaphone-Merge: "+how))
			client.wants(http.StatusCreated)
		}
		s.eventually(s.isDirect)
		client.send(writeRequest(c.ProducerAddress, `"y"`)) // is not merged, and has no room
		client.wants(http.StatusServiceUnavailable)
		client.Close()
		s.read(c).wants(want)
	}
}

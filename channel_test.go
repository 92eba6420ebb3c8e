package megaphone_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestManageShowsTheStateOfAChannel(t *testing.T) {
	s := serve(t, "", "megaphone create write read manage")
	c := s.create()
	s.write(c, "1")
	state := func(address string) (got map[string]any) {
		t.Helper()
		r := s.get("/channel/" + address)
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		return got
	}
	for _, address := range []string{c.ProducerAddress, c.ConsumerAddress} {
		got := state(address)
		if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, []string{"address", "connected", "created", "expires", "inFlight", "lastRead", "pending"}) {
			t.Errorf("members %v", keys)
		}
		if got["address"] != address || got["connected"] != false || got["pending"] != 1.0 || got["inFlight"] != 0.0 || got["lastRead"] != nil {
			t.Errorf("state %v", got)
		}
		created, err := time.Parse(time.RFC3339Nano, got["created"].(string))
		if err != nil {
			t.Error(err)
		}
		expires, err := time.Parse(time.RFC3339Nano, got["expires"].(string))
		if err != nil || expires.Sub(created) != time.Minute {
			t.Errorf("created %v, expires %v, %v", created, expires, err)
		}
	}
	s.read(c).wants("1")
	if got := state(c.ProducerAddress); got["connected"] != true || got["inFlight"] != 1.0 || got["lastRead"] == nil || got["expires"] != nil {
		t.Errorf("state %v", got)
	}
}

func TestManageDeletesAChannel(t *testing.T) {
	s := serve(t, "", "megaphone create write read manage")
	c := s.create()
	read := s.read(c)
	if r := s.deleteChannel(c); r.StatusCode != http.StatusOK || r.body != `{"status":"OK"}` {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	read.ends()
	s.deleteChannel(c).wantError(t, 404, "NOT_FOUND")
	s.get("/channel/"+c.ConsumerAddress).wantError(t, 404, "NOT_FOUND")
	s.get("/channel/").wantError(t, 404, "NOT_FOUND")
	s.post("/channel/"+c.ConsumerAddress, "").wantError(t, 405, "METHOD_NOT_ALLOWED")
}

func TestManageAndHealthAreOffByDefault(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone\nrespond next\n}")
	for _, path := range []string{"/channel/" + s.create().ConsumerAddress, "/health"} {
		if r := s.get(path); r.body != "next" {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.body)
		}
	}
}

func TestHealth(t *testing.T) {
	s := serve(t, "", "megaphone health")
	if r := s.get("/health"); r.StatusCode != http.StatusOK || r.body != `{"status":"OK"}` || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if r := s.do(http.MethodHead, "/health", nil, nil); r.StatusCode != http.StatusOK || r.body != "" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	s.post("/health", "").wantError(t, 405, "METHOD_NOT_ALLOWED")
}

func TestCreateReplies(t *testing.T) {
	s := serve(t, "", "megaphone")
	ndjson := []string{"HTTP_STREAM_NDJSON_V1"}
	for name, test := range map[string]struct {
		contentType, body string
		protocols         []string
	}{
		"no body":                     {"", "", ndjson},
		"empty list":                  {"application/json", `{"protocols":[]}`, ndjson},
		"not JSON":                    {"text/plain", "hello", ndjson},
		"wrong shape":                 {"application/json", `{"protocols":"HTTP_STREAM_SSE_V1"}`, ndjson},
		"large body that is not JSON": {"application/octet-stream", strings.Repeat("x", 100_000), ndjson},
		"another content type":        {"text/plain", `{"protocols":["HTTP_STREAM_SSE_V1"]}`, []string{"HTTP_STREAM_SSE_V1"}},
		"known and unknown protocols": {"", `{"protocols":["WEBSOCKET_V1","NEW","HTTP_STREAM_NDJSON_V1"]}`, []string{"WEBSOCKET_V1", "HTTP_STREAM_NDJSON_V1"}},
		"a protocol twice":            {"", `{"protocols":["HTTP_POLL_NDJSON_V1","HTTP_POLL_NDJSON_V1"]}`, []string{"HTTP_POLL_NDJSON_V1"}},
		"null":                        {"", `null`, ndjson},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			if test.contentType != "" {
				header.Set("Content-Type", test.contentType)
			}
			r := s.do(http.MethodPost, "/create", header, strings.NewReader(test.body))
			var got map[string]any
			if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", r.StatusCode, r.body)
			}
			if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, []string{"agentName", "channelId", "consumerAddress", "producerAddress", "protocols"}) {
				t.Errorf("members %v", keys)
			}
			address := regexp.MustCompile(`^main\.[A-Za-z0-9_-]+$`)
			for _, member := range []string{"consumerAddress", "producerAddress"} {
				if !address.MatchString(got[member].(string)) {
					t.Errorf("%s %q", member, got[member])
				}
			}
			if got["agentName"] != "main" || got["channelId"] != got["consumerAddress"] || got["producerAddress"] == got["consumerAddress"] {
				t.Errorf("reply %v", got)
			}
			if protocols := fmt.Sprint(got["protocols"]); protocols != fmt.Sprint(test.protocols) {
				t.Errorf("protocols %v, want %v", protocols, test.protocols)
			}
		})
	}
	s.do(http.MethodPost, "/create", nil, strings.NewReader(`{"protocols":["NEW"]}`)).wantError(t, 400, "BAD_REQUEST")
}

func TestChannelsExist(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for _, list := range []string{"channels", "channelIds"} {
		r := s.post("/channelsExists", fmt.Sprintf(`{%q:[%q,%q,"main.x","",%q]}`, list, c.ProducerAddress, c.ConsumerAddress, c.ProducerAddress))
		var got struct{ Channels map[string]bool }
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		want := map[string]bool{c.ProducerAddress: true, c.ConsumerAddress: true, "main.x": false, "": false}
		if !maps.Equal(got.Channels, want) {
			t.Errorf("reply %s", r.body)
		}
	}
	s.post("/channelsExists", `{}`).wantError(t, 400, "BAD_REQUEST")
}

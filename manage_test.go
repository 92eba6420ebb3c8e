package megaphone_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestManageTellsAChannelsState(t *testing.T) {
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
	s.read("/read/" + c.ConsumerAddress).wants("1")
	if got := state(c.ProducerAddress); got["connected"] != true || got["inFlight"] != 1.0 || got["lastRead"] == nil || got["expires"] != nil {
		t.Errorf("state %v", got)
	}
}

func TestManageDeletesAChannel(t *testing.T) {
	s := serve(t, "", "megaphone create write read manage")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress)
	if r := s.do(http.MethodDelete, "/channel/"+c.ProducerAddress, nil, nil); r.StatusCode != http.StatusOK || r.body != `{"status":"OK"}` {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	read.ends()
	s.do(http.MethodDelete, "/channel/"+c.ProducerAddress, nil, nil).wantError(t, 404, "NOT_FOUND")
	s.get("/channel/"+c.ConsumerAddress).wantError(t, 404, "NOT_FOUND")
	s.get("/channel/").wantError(t, 404, "NOT_FOUND")
	s.post("/channel/"+c.ConsumerAddress, "").wantError(t, 405, "METHOD_NOT_ALLOWED")
}

func TestManageAndHealthAreServedOnDemandOnly(t *testing.T) {
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

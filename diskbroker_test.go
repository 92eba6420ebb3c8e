package megaphone_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestChannelsOnDiskOutliveTheServer stops Caddy, which closes the Broker, and starts it again.
func TestChannelsOnDiskOutliveTheServer(t *testing.T) {
	settings := fmt.Sprintf("megaphone {\nbroker disk {\npath %s\n}\n}", filepath.Join(t.TempDir(), "journal"))
	s := serve(t, settings, "megaphone create write read health")
	c := s.create()
	s.write(c, "1")
	s.write(c, `"two"`)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	s.reload(settings, "megaphone create write read health")
	s.write(c, "3")
	s.read(c).wants("1", `"two"`, "3")
	if r := s.get("/health"); r.StatusCode != 200 {
		t.Errorf("health: %d %s", r.StatusCode, r.body)
	}
	if up := s.metrics()["caddy_megaphone_storage_up{}"]; up != 1 {
		t.Errorf("the metric storage_up is %v", up)
	}

	// A reload to another broker and back: the channels are there again.
	s.reload("", "megaphone create write read")
	s.tryWrite(c, "4").wantError(t, 404, "NOT_FOUND")
	s.reload(strings.Replace(settings, "broker disk {", "broker disk {\ndurability disk", 1), "megaphone create write read")
	s.write(c, "4")
	s.reload(settings, "megaphone create write read") // shares the Broker, with another durability
	s.write(c, "5")
	s.read(c).wants("1", `"two"`, "3", "4", "5")
}

// TestTopicsOnDiskOutliveTheServer: members, what a topic keeps, what a member has missed, and an end.
func TestTopicsOnDiskOutliveTheServer(t *testing.T) {
	settings := fmt.Sprintf("megaphone {\nbuffer 1\nbroker disk {\npath %s\n}\n}", filepath.Join(t.TempDir(), "journal"))
	s := serve(t, settings, topicSite)
	s.call(200, http.MethodPut, "/topic/news", `{"keep":"1MB"}`)
	member := s.createWith(`{"topics":["news"]}`)
	s.publish("news", "1")
	if got := s.publish("news", "2"); got != `{"members":1,"accepted":0,"full":1}` {
		t.Errorf("publish: %s", got)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	s.reload(settings, topicSite)
	s.call(200, http.MethodPost, "/topic/news/close", "{}")
	if got := s.call(200, http.MethodGet, "/topic/news", ""); got != `{"members":1,"connected":0,"kept":2,"closed":"done"}` {
		t.Errorf("topic: %s", got)
	}
	poll := s.get("/read/" + member.ConsumerAddress + "?poll=0s")
	if !strings.Contains(poll.body, `"body":1}`) || !strings.Contains(poll.body, `"missed":1,`) || !strings.Contains(poll.body, `"end":"done"}`) {
		t.Errorf("read: %s", poll.body)
	}
	later := s.createWith(`{"topics":[{"topic":"news","last":"all"}]}`)
	poll = s.get("/read/" + later.ConsumerAddress + "?poll=0s")
	if !strings.Contains(poll.body, `"body":1}`) || !strings.Contains(poll.body, `"body":2}`) || !strings.Contains(poll.body, `"end":"done"}`) {
		t.Errorf("read: %s", poll.body)
	}
}

// TestABackupIsAJournal makes a backup through the admin API, and goes on with it.
func TestABackupIsAJournal(t *testing.T) {
	folder := t.TempDir()
	settings := func(name string) string {
		return fmt.Sprintf("megaphone {\nbroker disk {\npath %s\n}\n}", filepath.Join(folder, name))
	}
	s := serveAdmin(t, settings("journal"), "megaphone")
	c := s.create()
	s.write(c, "1")
	s.write(c, `"two"`)
	path := filepath.Join(folder, "backup")
	var made struct {
		Path  string
		Bytes int64
	}
	body := fmt.Sprintf(`{"path":%q}`, path)
	if status := s.call("POST", "backup", body, &made); status != 200 || made.Path != path || made.Bytes < 100 {
		t.Errorf("%d %+v", status, made)
	}
	s.fails(409, "POST", "backup", body)
	s.fails(400, "POST", "backup", fmt.Sprintf(`{"path":%q}`, filepath.Join(folder, "missing", "backup")))
	s.write(c, "3")
	s.reload(settings("backup"), "megaphone")
	s.read(c).wants("1", `"two"`)
}

func TestAJournalThatCannotBeReadRefusesTheConfiguration(t *testing.T) {
	path := t.TempDir()
	s := serve(t, "", "megaphone")
	c := s.create()
	if err := os.WriteFile(filepath.Join(path, "0000000000000001.journal"), []byte(strings.Repeat("not a journal", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "0000000000000003.journal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "0000000000000004.journal"), []byte(strings.Repeat("not a journal", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.load("megaphone {\nbroker disk {\npath "+path+"\n}\n}", "megaphone")
	if err == nil || !strings.Contains(err.Error(), "0000000000000002.journal is missing") || !strings.Contains(err.Error(), "broker: ") {
		t.Errorf("error %v", err)
	}
	s.write(c, "1") // goes on as before
	s.read(c).wants("1")
}

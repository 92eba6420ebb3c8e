package megaphone_test

import (
	"fmt"
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

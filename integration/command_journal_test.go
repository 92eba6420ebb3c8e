package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestCommandJournalBackup copies the journal of a running server, checks the copy, and serves it.
func TestCommandJournalBackup(t *testing.T) {
	t.Parallel()
	settings := func(folder string) string { return "megaphone {\nbroker disk {\npath " + folder + "\n}\n}" }
	folder := t.TempDir()
	s := newCommandServer(t, settings(filepath.Join(folder, "journal")))
	created, _ := s.run(0, "", "create", "--json")
	var channel struct{ ProducerAddress, ConsumerAddress string }
	if err := json.Unmarshal([]byte(created), &channel); err != nil {
		t.Fatal(err)
	}
	s.run(0, "1\n2\n", "send", channel.ProducerAddress, "stream")
	s.run(0, "", "topic", "join", "news", channel.ProducerAddress)

	copied := filepath.Join(folder, "copy")
	out, _ := s.run(0, "", "journal", "backup", copied)
	if !strings.HasPrefix(out, copied+" has ") {
		t.Errorf("it prints %q", out)
	}
	s.run(0, "3\n", "send", channel.ProducerAddress, "stream")
	var made struct {
		Path  string
		Bytes int64
	}
	again := filepath.Join(folder, "again")
	out, _ = s.run(0, "", "journal", "backup", "--json", again)
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Path != again || made.Bytes < 100 {
		t.Errorf("it prints %q", out)
	}
	before, err := os.ReadDir(copied)
	if err != nil {
		t.Fatal(err)
	}
	if _, problem := s.run(5, "", "journal", "backup", copied); !strings.Contains(problem, "give the backup a name of its own") {
		t.Errorf("a second backup to the same folder prints %q", problem)
	}
	if after, err := os.ReadDir(copied); err != nil || len(after) != len(before) {
		t.Errorf("the refused backup has changed the first: %v %v", after, err)
	}

	check := s.Command("megaphone", "journal", "check", "--path", copied)
	text, err := check.CombinedOutput()
	if words := strings.Join(strings.Fields(string(text)), " "); err != nil || !strings.Contains(words, "channels 1 messages 2 missing between them 0 topics 1 memberships 1 kept by topics 0 ") {
		t.Errorf("check: %v\n%s", err, text)
	}
	restored := &commandServer{testserver.New(t), t, s.url}
	s.Stop()
	restored.Start(settings(copied), s.site("megaphone"))
	restored.Await("the channel is there with its messages", func() bool { // the server loads while it serves
		shown, _ := restored.command("show", "--json", channel.ConsumerAddress).Output()
		return strings.Contains(string(shown), `"pending":2,`)
	})
}

// TestCommandJournalBackupNeedsAJournal calls the command for a server that keeps its channels in memory.
func TestCommandJournalBackupNeedsAJournal(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone")
	if _, problem := s.run(1, "", "journal", "backup", filepath.Join(s.Dir, "copy")); !strings.Contains(problem, "keeps nothing on this machine's disk") {
		t.Errorf("it prints %q", problem)
	}
}

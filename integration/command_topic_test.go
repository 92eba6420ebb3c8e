package integration

import (
	"strings"
	"testing"
)

// TestCommandsForTopics uses each of them with a server.
func TestCommandsForTopics(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\ntopic_keep 1KB\n}")
	a, b := s.create(), s.create()
	if out, _ := s.run(0, "", "topic", "join", "room/1", a.ProducerAddress, b.ConsumerAddress); out != "joined 2\n" {
		t.Errorf("join: %s", out)
	}
	if out, _ := s.run(0, "", "topic", "publish", "--text", "room/1", "chat", "Hello"); out != "2 of 2 members have taken it, 0 had no room\n" {
		t.Errorf("publish: %s", out)
	}
	if out, _ := s.run(0, "", "tail", "--json", "--count", "1", a.ConsumerAddress); !strings.Contains(out, `"body":"Hello"`) {
		t.Errorf("tail: %s", out)
	}
	if out, _ := s.run(0, "", "topic", "leave", "room/1", b.ProducerAddress); out != "left 1\n" {
		t.Errorf("leave: %s", out)
	}
	if out, _ := s.run(0, "", "topic", "list", "--prefix", "room/"); !strings.Contains(out, "room/1  1        0          1     -\n") {
		t.Errorf("list: %s", out)
	}
	s.run(4, "", "topic", "join", "..", "0000000000000000")
	if out, _ := s.run(0, "", "topic", "show", "--json", ".."); !strings.Contains(out, `"topic":"..","members":0`) {
		t.Errorf("show: %s", out)
	}
	if out, _ := s.run(0, "", "topic", "close", "--aborted", "room/1"); !strings.Contains(out, "closed     aborted\n") {
		t.Errorf("close: %s", out)
	}
	if _, errs := s.run(5, "", "topic", "publish", "room/1", "chat", "1"); !strings.Contains(errs, "the topic is closed") {
		t.Errorf("publish: %s", errs)
	}
	if out, _ := s.run(0, "", "stats"); !strings.Contains(out, "1 with 1 members, keeping ") {
		t.Errorf("stats: %s", out)
	}
}

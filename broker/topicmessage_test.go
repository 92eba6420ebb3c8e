package broker_test

import (
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
)

// TestTheEndOfATopicIsAMessage: an end has its field after the body, also when it is restored or says what was missed.
func TestTheEndOfATopicIsAMessage(t *testing.T) {
	for _, how := range []string{broker.EndDone, broker.EndAborted} {
		m, err := broker.NewEnd("news", how)
		if err != nil {
			t.Fatal(err)
		}
		restored, err := broker.RestoreLine(m.Line(), false)
		if err != nil {
			t.Fatal(err)
		}
		for name, m := range map[string]*broker.Message{"new": m, "restored": restored, "missed": restored.Missed(12)} {
			if m.End() != how || string(m.Body()) != "null" || m.StreamID() != "news" {
				t.Errorf("%s: end %q, body %s, stream %q", name, m.End(), m.Body(), m.StreamID())
			}
			if want := `"body":null,"end":"` + how + `"}`; !strings.HasSuffix(string(m.JSON()), want) {
				t.Errorf("%s: the line is %s, want %s at its end", name, m.JSON(), want)
			}
		}
	}
	if _, err := broker.NewEnd("news", "over"); err == nil {
		t.Error(`"over" is taken as the end of a topic`)
	}
}

// TestMissedStandsBesideTheStream: the copy says what was missed, and otherwise the same. The message itself does not change.
func TestMissedStandsBesideTheStream(t *testing.T) {
	m, err := broker.NewMessage(`a"b`, []byte(`{"end":"done"}`), "key")
	if err != nil {
		t.Fatal(err)
	}
	before := string(m.Line())
	missed := m.Missed(7)
	if want := strings.Replace(before, `"a\"b",`, `"a\"b","missed":7,`, 1); string(missed.Line()) != want {
		t.Errorf("the line is %s, want %s", missed.Line(), want)
	}
	if string(m.Line()) != before || m.Missed(0) != m {
		t.Errorf("the message has changed: %s", m.Line())
	}
	if missed.StreamID() != `a"b` || string(missed.Body()) != `{"end":"done"}` || !missed.Time().Equal(m.Time()) ||
		missed.ID() != m.ID() || !missed.Keyed() || missed.End() != "" {
		t.Errorf("the copy says %q %s %v %v", missed.StreamID(), missed.Body(), missed.Time(), missed.ID())
	}
}

// TestAgainHasAnotherID and says the same otherwise. The message itself does not change.
func TestAgainHasAnotherID(t *testing.T) {
	m, err := broker.NewMessage(`a"b`, []byte(`"piece"`), "")
	if err != nil {
		t.Fatal(err)
	}
	m = m.WithMerge(broker.MergeAppend).Missed(7)
	before := string(m.Line())
	again := m.Again()
	if want := strings.Replace(before, m.ID().String(), again.ID().String(), 1); string(again.Line()) != want || again.ID() == m.ID() {
		t.Errorf("the line is %s, want %s", again.Line(), want)
	}
	if string(m.Line()) != before {
		t.Errorf("the message has changed: %s", m.Line())
	}
	if again.StreamID() != `a"b` || string(again.Body()) != `"piece"` || !again.Time().Equal(m.Time()) || again.Merge() != m.Merge() ||
		again.Size() != m.Size() || again.Accepted() != m.Accepted() {
		t.Errorf("the copy says %q %s %v", again.StreamID(), again.Body(), again.Time())
	}
}

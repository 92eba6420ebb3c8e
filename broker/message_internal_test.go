package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// TestMessagesHaveTheTimeOfDay: timestamps follow the system's clock, although not every message reads it.
func TestMessagesHaveTheTimeOfDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, later := range []time.Duration{
			0, 1, 999_999_998, 1, time.Second - 1, 1, time.Second, 123_456_789 * time.Nanosecond, time.Hour, 24 * time.Hour,
		} {
			time.Sleep(later)
			m, err := NewMessage("s", []byte("1"), "")
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ TS string }
			if err := json.Unmarshal(m.Line(), &got); err != nil {
				t.Fatal(err)
			}
			now := time.Now().UTC()
			if want := now.Format("2006-01-02T15:04:05.000000000Z"); got.TS != want {
				t.Errorf("the timestamp is %s, want %s", got.TS, want)
			}
			if sec, nsec := m.ID().Time().UnixTime(); sec != now.Unix() || nsec/1e6 != int64(now.Nanosecond())/1e6 {
				t.Errorf("the id has the time %d.%09d, want %s", sec, nsec, now)
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add("stream", []byte(`{"a": [1, 2.50, "é", null]}`), "")
	f.Add("a\"b\\c\nd", []byte("\t1e400 "), "key")
	f.Fuzz(func(t *testing.T, streamID string, body []byte, key string) {
		m, err := NewMessage(streamID, body, key)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Errorf("error %v", err)
			}
			return
		}
		var got struct {
			SID  string          `json:"sid"`
			EID  EventID         `json:"eid"`
			TS   time.Time       `json:"ts"`
			Body json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(m.JSON(), &got); err != nil {
			t.Fatalf("%q: %v", m.JSON(), err)
		}
		if got.SID != streamID || got.EID != m.ID() || got.TS.IsZero() {
			t.Errorf("line %q", m.Line())
		}
		if line := m.Line(); bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
			t.Errorf("line %q", line)
		}
		if key != "" && m.ID() != KeyedEventID(key) || key == "" && m.ID().Version() != 7 {
			t.Errorf("event id %v", m.ID())
		}
		restored, err := RestoreLine(bytes.Clone(m.Line()), m.Keyed())
		if err != nil || restored.ID() != m.ID() || restored.StreamID() != streamID || !restored.Time().Equal(m.Time()) ||
			restored.Keyed() != m.Keyed() || !bytes.Equal(restored.Line(), m.Line()) || !bytes.Equal(restored.Body(), m.Body()) {
			t.Errorf("the line %q is restored as %+v, error %v", m.Line(), restored, err)
		}
		if id, ok := ParseEventID(m.ID().String()); !ok || id != m.ID() {
			t.Errorf("event id %v was read as %v", m.ID(), id)
		}
	})
}

// TestARestoredLineIsTheSame also where RestoreMessage would write the stream id in another way.
func TestARestoredLineIsTheSame(t *testing.T) {
	for _, streamID := range []string{`"a"`, `"\u00e4 ä \u2028\/ \"\\"`, `"<&>"`} {
		m, err := NewMessageFromJSON([]byte(streamID), []byte(`{"a":1}`), true, "")
		if err != nil {
			t.Fatal(err)
		}
		restored, err := RestoreLine(bytes.Clone(m.Line()), false)
		if err != nil || !bytes.Equal(restored.Line(), m.Line()) || restored.StreamID() != m.StreamID() ||
			restored.ID() != m.ID() || string(restored.Body()) != `{"a":1}` || restored.Size() != m.Size() {
			t.Errorf("the line %q is restored as %q, error %v", m.Line(), restored.Line(), err)
		}
	}
}

// TestOnlyLinesAreRestored: whatever else a store returns is an error, not a message.
func TestOnlyLinesAreRestored(t *testing.T) {
	m, err := NewMessage("stream", []byte("1"), "")
	if err != nil {
		t.Fatal(err)
	}
	line := string(m.Line())
	for i := range len(line) {
		if _, err := RestoreLine([]byte(line[:i]), false); !errors.Is(err, ErrMessage) {
			t.Errorf("%q: error %v", line[:i], err)
		}
	}
	for _, bad := range []string{
		"", "{}\n", strings.Replace(line, "sid", "Sid", 1), strings.Replace(line, "stream", "", 1),
		strings.Replace(line, "eid", "Eid", 1), strings.Replace(line, `"ts":"2`, `"ts":"x`, 1), strings.Replace(line, "body", "Body", 1),
		strings.Replace(line, m.ID().String(), strings.Repeat("x", 36), 1), line + " ",
	} {
		if _, err := RestoreLine([]byte(bad), false); !errors.Is(err, ErrMessage) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

// TestAMessageTakesNoMoreMemoryThanItCounts: the white space that compaction removes from a body takes no memory.
func TestAMessageTakesNoMoreMemoryThanItCounts(t *testing.T) {
	for _, body := range []string{
		fmt.Sprintf("%1000000s", "1"),
		"{\n    \"name\": \"value\",\n    \"list\": [\n        1,\n        2,\n        3\n    ]\n}",
	} {
		m, err := NewMessage("s", []byte(body), "")
		if err != nil {
			t.Fatal(err)
		}
		if unused := cap(m.line) - len(m.line); unused > len(m.line)/4 && unused > messageOverhead {
			t.Errorf("a line of %d bytes takes %d", len(m.line), cap(m.line))
		}
	}
}

// TestALineIsNeverNestedTooDeeply: the line's object is one level around the body. A body that would make the line too
// deep for consumers is refused.
func TestALineIsNeverNestedTooDeeply(t *testing.T) {
	for depth, valid := range map[int]bool{jsontext.MaxDepth - 1: true, jsontext.MaxDepth: false} {
		m, err := NewMessage("stream", []byte(strings.Repeat("[", depth)+strings.Repeat("]", depth)), "")
		if (err == nil) != valid || err == nil && !json.Valid(m.Line()) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

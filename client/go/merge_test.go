package megaphone_test

import (
	"testing"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// TestMergedWrites: a reader who comes late gets the latest value, and one text.
func TestMergedWrites(t *testing.T) {
	t.Parallel()
	_, c := newServer(t, "megaphone {\nbuffer 2\nhold 0s\n}")
	a := create(t, c)
	for i := range 5 {
		m := megaphone.Message{Channel: a.ProducerAddress, StreamID: "value", Body: i, Merge: "replace"}
		if err := c.Write(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	ingest := c.Ingest(t.Context())
	for _, text := range []string{"a", "b", "c"} {
		m := megaphone.Message{Channel: a.ProducerAddress, StreamID: "text", Body: text, Merge: "append"}
		if err := ingest.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	if result, err := ingest.Close(); err != nil || result.Written != 3 {
		t.Fatalf("%+v %v", result, err)
	}
	want := []string{"4", `"abc"`}
	for event := range c.Read(t.Context(), a.ConsumerAddress, megaphone.ReadOptions{}) {
		if string(event.Body) != want[0] {
			t.Errorf("the body is %s, want %s", event.Body, want[0])
		}
		if want = want[1:]; len(want) == 0 {
			break
		}
	}
}

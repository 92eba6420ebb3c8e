package webhook

import (
	"encoding/json"
	"time"
)

// maxBody is how large a body may be, in bytes, unless it tells of one thing only. Many frameworks take 100 KB.
const maxBody = 64 << 10

// bodyFrame is how many bytes a body has around what it tells, at most.
const bodyFrame = 40

// size is how many bytes a notice takes in a body, at most.
func (n *Event) size(event string) int {
	switch event {
	case ChannelCreated:
		return len(n.Channel) + len(`"",`)
	case ChannelDeleted:
		return 2*len(n.Channel) + len(`"","":18446744073709551615,`)
	}
	return 2*len(n.Channel) + len(n.Transport) + len(n.EndedBy) +
		len(`"",{"channel":"","transport":"","time":"2006-01-02T15:04:05.999999999Z","messages":18446744073709551615,"endedBy":""},`)
}

// encode is what a request tells. It has all that a batch has, which is never empty (protocol.md 2.7).
func encode(event string, batch []Event) ([]byte, error) {
	channels := make([]string, 0, len(batch))
	seen := make(map[string]struct{}, len(batch))
	for _, n := range batch {
		if _, repeated := seen[n.Channel]; !repeated {
			seen[n.Channel] = struct{}{}
			channels = append(channels, n.Channel)
		}
	}
	switch event {
	case ChannelDeleted:
		undelivered := make(map[string]int, len(batch))
		for _, n := range batch {
			undelivered[n.Channel] = n.Undelivered
		}
		return json.Marshal(struct {
			Channels    []string       `json:"channels"`
			Undelivered map[string]int `json:"undelivered"`
		}{channels, undelivered})
	case ChannelCreated:
		return json.Marshal(struct {
			Channels []string `json:"channels"`
		}{channels})
	}
	type reader struct {
		Channel   string `json:"channel"`
		Transport string `json:"transport"`
		Time      string `json:"time"`
		Messages  *int   `json:"messages,omitempty"`
		EndedBy   string `json:"endedBy,omitempty"`
	}
	readers := make([]reader, len(batch))
	for i, n := range batch {
		readers[i] = reader{Channel: n.Channel, Transport: n.Transport, Time: n.At.UTC().Format(time.RFC3339Nano), EndedBy: n.EndedBy}
		if event == ReaderDisconnected {
			readers[i].Messages = &batch[i].Messages
		}
	}
	return json.Marshal(struct {
		Channels []string `json:"channels"`
		Readers  []reader `json:"readers"`
	}{channels, readers})
}

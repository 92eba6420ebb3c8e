package megaphone

import (
	"encoding/json"
	"time"
)

// maxBody is how large a body may be, in bytes, unless it tells of one thing only. Many frameworks take 100 KB.
const maxBody = 64 << 10

// bodyFrame is how many bytes a body has around what it tells, at most.
const bodyFrame = 40

// size is how many bytes a notice takes in a body, at most.
func (n *notice) size(event string) int {
	switch event {
	case channelCreated:
		return len(n.channel) + len(`"",`)
	case channelDeleted:
		return 2*len(n.channel) + len(`"","":18446744073709551615,`)
	}
	return 2*len(n.channel) + len(n.transport) + len(n.endedBy) +
		len(`"",{"channel":"","transport":"","time":"2006-01-02T15:04:05.999999999Z","messages":18446744073709551615,"endedBy":""},`)
}

// webhookBody is what a request tells. It has all that a batch has, which is never empty (protocol.md 2.7).
func webhookBody(event string, batch []notice) ([]byte, error) {
	channels := make([]string, 0, len(batch))
	seen := make(map[string]struct{}, len(batch))
	for _, n := range batch {
		if _, repeated := seen[n.channel]; !repeated {
			seen[n.channel] = struct{}{}
			channels = append(channels, n.channel)
		}
	}
	switch event {
	case channelDeleted:
		undelivered := make(map[string]int, len(batch))
		for _, n := range batch {
			undelivered[n.channel] = n.undelivered
		}
		return json.Marshal(struct {
			Channels    []string       `json:"channels"`
			Undelivered map[string]int `json:"undelivered"`
		}{channels, undelivered})
	case channelCreated:
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
		readers[i] = reader{Channel: n.channel, Transport: n.transport, Time: n.at.UTC().Format(time.RFC3339Nano), EndedBy: n.endedBy}
		if event == readerDisconnected {
			readers[i].Messages = &batch[i].messages
		}
	}
	return json.Marshal(struct {
		Channels []string `json:"channels"`
		Readers  []reader `json:"readers"`
	}{channels, readers})
}

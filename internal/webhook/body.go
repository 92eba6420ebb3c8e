package webhook

import (
	"encoding/json"
	"time"
)

// maxBody is how large a body may be, in bytes, unless it has only one event. Many frameworks accept 100 KB.
const maxBody = 64 << 10

// bodyFrame is how many bytes a body has at most, apart from its events.
const bodyFrame = 40

// size returns how many bytes an event with this name takes in a body, at most.
func (e *Event) size(name string) int {
	switch name {
	case ChannelCreated:
		return len(e.Channel) + len(`"",`)
	case TopicOccupied, TopicVacated:
		return 2*jsonSize(e.Topic) + len(`,:"2006-01-02T15:04:05.999999999Z",`)
	case ChannelDeleted:
		return 2*len(e.Channel) + len(`"","":18446744073709551615,`)
	case ChannelWaiting:
		return 2*len(e.Channel) + len(`"","":{"messages":18446744073709551615,"since":"2006-01-02T15:04:05.999999999Z"},`)
	}
	return 2*len(e.Channel) + len(e.Transport) + len(e.EndedBy) +
		len(`"",{"channel":"","transport":"","time":"2006-01-02T15:04:05.999999999Z","messages":18446744073709551615,"endedBy":""},`)
}

// encode returns the body of a request that reports a batch of events with this name (protocol.md 2.7). The batch must not
// be empty.
func encode(name string, batch []Event) ([]byte, error) {
	if name == TopicOccupied || name == TopicVacated {
		return encodeTopics(batch)
	}
	channels := make([]string, 0, len(batch))
	seen := make(map[string]struct{}, len(batch))
	for _, e := range batch {
		if _, repeated := seen[e.Channel]; !repeated {
			seen[e.Channel] = struct{}{}
			channels = append(channels, e.Channel)
		}
	}
	switch name {
	case ChannelDeleted:
		undelivered := make(map[string]int, len(batch))
		for _, e := range batch {
			undelivered[e.Channel] = e.Undelivered
		}
		return json.Marshal(struct {
			Channels    []string       `json:"channels"`
			Undelivered map[string]int `json:"undelivered"`
		}{channels, undelivered})
	case ChannelWaiting:
		type unread struct {
			Messages int    `json:"messages"`
			Since    string `json:"since"`
		}
		waiting := make(map[string]unread, len(batch))
		for _, e := range batch {
			waiting[e.Channel] = unread{e.Messages, e.Since.UTC().Format(time.RFC3339Nano)}
		}
		return json.Marshal(struct {
			Channels []string          `json:"channels"`
			Waiting  map[string]unread `json:"waiting"`
		}{channels, waiting})
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
	for i, e := range batch {
		readers[i] = reader{Channel: e.Channel, Transport: e.Transport, Time: e.At.UTC().Format(time.RFC3339Nano), EndedBy: e.EndedBy}
		if name == ReaderDisconnected {
			readers[i].Messages = &batch[i].Messages
		}
	}
	return json.Marshal(struct {
		Channels []string `json:"channels"`
		Readers  []reader `json:"readers"`
	}{channels, readers})
}

// jsonSize returns how many bytes a text takes as a JSON string.
func jsonSize(text string) int {
	quoted, _ := json.Marshal(text) // a string always has a JSON form
	return len(quoted)
}

// encodeTopics returns the body of a request that reports topics. A topic has the time of its last event in the batch.
func encodeTopics(batch []Event) ([]byte, error) {
	topics := make([]string, 0, len(batch))
	times := make(map[string]string, len(batch))
	for _, e := range batch {
		if _, repeated := times[e.Topic]; !repeated {
			topics = append(topics, e.Topic)
		}
		times[e.Topic] = e.At.UTC().Format(time.RFC3339Nano)
	}
	return json.Marshal(struct {
		Topics []string          `json:"topics"`
		Times  map[string]string `json:"times"`
	}{topics, times})
}

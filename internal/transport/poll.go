package transport

import (
	"net/http"
	"strconv"
)

// PollName is the name of the protocol (protocol.md 2.10).
const PollName = "HTTP_POLL_NDJSON_V1"

// WritePoll answers a poll with lines, which may be none (protocol.md 2.5).
func WritePoll(w http.ResponseWriter, lines [][]byte) {
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	header := w.Header()
	header.Set("Content-Type", NDJSONType)
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(http.StatusOK)
	for _, line := range lines {
		if _, err := w.Write(line); err != nil {
			return // the client is gone; the lines come again in its next poll
		}
	}
}

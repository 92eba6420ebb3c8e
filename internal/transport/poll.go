package transport

import (
	"net/http"
	"strconv"
)

// PollName is the name of the protocol (protocol.md 2.10).
const PollName = "HTTP_POLL_NDJSON_V1"

// WritePoll answers a poll with lines, or with none (protocol.md 2.5). The bounds limit how long the client may take
// nothing. If it takes longer, WritePoll gives up, and the lines are sent again in the client's next poll.
func WritePoll(w http.ResponseWriter, r *http.Request, lines [][]byte, bounds Bounds) {
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	header := w.Header()
	header.Set("Content-Type", NDJSONType)
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(http.StatusOK)

	reply := newResponse(w, r, bounds)
	err := reply.arm()
	for i := 0; i < len(lines) && err == nil; i++ {
		err = reply.put(lines[i])
	}
	why := Complete
	if err != nil || reply.flush() != nil {
		why = Broken
	}
	reply.End(why)
}

package transport

import (
	"strconv"
	"strings"
)

// PrefersSSE reports whether the Accept header of a read prefers server-sent events (RFC 9110, 12.5.1). In all other
// cases, the server answers with NDJSON, because existing clients name all kinds of types. So a client must ask for
// server-sent events by name. If it asks for NDJSON by name too, and NDJSON is offered, then server-sent events must not
// have the lower weight.
func PrefersSSE(accept []string, offers [KindCount]bool) bool {
	events, lines, other := -1.0, -1.0, -1.0
	for _, header := range accept {
		for element := range strings.SplitSeq(header, ",") {
			name, params, _ := strings.Cut(element, ";")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case SSEType:
				events = max(events, quality(params))
			case NDJSONType:
				lines = max(lines, quality(params))
			case "*/*", "application/*":
				other = max(other, quality(params))
			}
		}
	}
	if events <= 0 {
		return false
	}
	if !offers[KindSSE] {
		return lines <= 0 && other <= 0 // a client that accepts nothing else must learn that it is not offered
	}
	return events >= lines || !offers[KindNDJSON]
}

// quality returns the weight among the parameters of an element of Accept (RFC 9110, 12.4.2).
func quality(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && q >= 0 && q <= 1 {
				return q
			}
			return 0
		}
	}
	return 1
}

package transport

// A Kind is one of the transports by which messages leave.
type Kind int

// The transports (protocol.md 1.6, 2.3 to 2.5). KindCount is how many there are.
const (
	KindNDJSON Kind = iota
	KindSSE
	KindWebSocket
	KindPoll
	KindCount
)

// KindNames are the names of the transports in the configuration.
var KindNames = []string{"ndjson", "sse", "websocket", "poll"}

// Protocols are the names of the transports on the wire (protocol.md 1.3, 2.10).
var Protocols = []string{NDJSONName, SSEName, WebSocketName, PollName}

// String returns the name of the transport in the configuration, in logs and in metrics.
func (k Kind) String() string { return KindNames[k] }

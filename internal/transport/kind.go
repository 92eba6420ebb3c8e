package transport

// A Kind is a kind of transport.
type Kind int

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

func (k Kind) String() string { return KindNames[k] }

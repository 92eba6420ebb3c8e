package megaphone

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-megaphone/megaphone/broker"
)

// An endpoint is one of the addresses of the protocol (protocol.md, part 1).
type endpoint int

const (
	createEndpoint endpoint = iota
	writeEndpoint
	writeBatchEndpoint
	ingestEndpoint
	readEndpoint
	channelsExistEndpoint
	manageEndpoint
	healthEndpoint
	uiEndpoint
	endpointCount
)

// permissions are the names by which a site says what it serves, and the endpoints that each name stands for.
var permissions = map[string][]endpoint{
	"create": {createEndpoint},
	"write":  {writeEndpoint, writeBatchEndpoint, ingestEndpoint},
	"read":   {readEndpoint},
	"exists": {channelsExistEndpoint},
	"manage": {manageEndpoint},
	"health": {healthEndpoint},
	"ui":     {uiEndpoint},
}

// permissionNames are the names of permissions, in the order in which docs and errors list them.
var permissionNames = []string{"create", "write", "read", "exists", "manage", "health", "ui"}

// standardPermissions are the permissions of a site that names none.
var standardPermissions = permissionNames[:4]

// endpointNames are the names of endpoints in logs and metrics.
var endpointNames = []string{"create", "write", "write-batch", "ingest", "read", "channelsExists", "manage", "health", "ui"}

// String returns the endpoint's name in logs and metrics.
func (e endpoint) String() string { return endpointNames[e] }

var (
	readMethods   = []string{http.MethodGet, http.MethodHead}
	postMethods   = []string{http.MethodPost}
	manageMethods = []string{http.MethodGet, http.MethodHead, http.MethodDelete}
)

// methods returns the methods that the endpoint serves.
func (e endpoint) methods() []string {
	switch e {
	case readEndpoint, healthEndpoint, uiEndpoint:
		return readMethods
	case manageEndpoint:
		return manageMethods
	default:
		return postMethods
	}
}

// takesBody reports whether the body of a request to the endpoint means something.
func (e endpoint) takesBody() bool {
	switch e {
	case readEndpoint, manageEndpoint, healthEndpoint, uiEndpoint:
		return false
	default:
		return true
	}
}

// A target is what a request's path names.
type target struct {
	endpoint endpoint
	address  string // of write, read and manage
	streamID string // of write
	file     string // of ui

	// mistake is what is wrong with the path, if it is nearly the endpoint's. Only the endpoint is sure then, and the
	// address if there is one.
	mistake string
}

// parseTarget reads a request's path. It reports false if the path belongs to no endpoint.
func parseTarget(u *url.URL) (t target, ok bool) {
	path := u.Path
	escaped := u.RawPath != "" // only then does a segment have an escaped slash
	if escaped {
		path = u.EscapedPath()
	}
	name, rest, hasRest := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case name == "ui":
		t.endpoint = uiEndpoint
		t.file, ok = parseUIPath(rest, hasRest)
	case hasRest:
		t, ok = parseAddressPath(name, rest)
	default:
		t.endpoint, ok = plainEndpoints[name]
	}
	if ok && escaped {
		ok = t.unescape() == nil
	}
	if !ok {
		return target{}, false
	}
	return t, true
}

// plainEndpoints are the endpoints whose path is only a name.
var plainEndpoints = map[string]endpoint{
	"create":         createEndpoint,
	"write":          ingestEndpoint,
	"write-batch":    writeBatchEndpoint,
	"channelsExists": channelsExistEndpoint,
	"health":         healthEndpoint,
}

// parseAddressPath reads a path of which an address follows the name. It takes no segment more than the endpoint has.
func parseAddressPath(name, rest string) (t target, ok bool) {
	t.address, ok = rest, true
	switch name {
	case "write":
		t.endpoint = writeEndpoint
		t.address, t.streamID, ok = strings.Cut(rest, "/")
	case "read":
		t.endpoint = readEndpoint
	case "channel":
		t.endpoint = manageEndpoint
	default:
		return t, false
	}
	return t, ok && !strings.Contains(t.address, "/") && !strings.Contains(t.streamID, "/")
}

// unescape decodes the segments of an escaped path.
func (t *target) unescape() error {
	for _, segment := range []*string{&t.address, &t.streamID} {
		text, err := url.PathUnescape(*segment)
		if err != nil {
			return err
		}
		*segment = text
	}
	return nil
}

// addressEndpoints are the endpoints whose path has an address after the name.
var addressEndpoints = map[string]endpoint{"write": writeEndpoint, "read": readEndpoint, "channel": manageEndpoint}

// parseWrongPath reads a path that parseTarget does not know. It reports true if the request is meant for an endpoint all
// the same: an address follows the endpoint's name, or the request is a POST to a name with a slash too many. No other
// handler may answer such a request, because its 200 would look like success.
func parseWrongPath(r *http.Request) (t target, ok bool) {
	path := r.URL.EscapedPath()
	name, rest, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	rest = strings.TrimLeft(rest, "/")
	if rest == "" {
		t.endpoint, ok = plainEndpoints[name]
		t.mistake = "the path is /" + name + ", without another slash"
		return t, ok && t.endpoint.methods()[0] == http.MethodPost && isPost(r)
	}
	text, err := url.PathUnescape(rest)
	if t.endpoint, ok = addressEndpoints[name]; !ok || err != nil {
		return t, false
	}
	t.address, _, _ = strings.Cut(text, "/")
	segment, _, more := strings.Cut(rest, "/")
	switch {
	case path != "/"+name+"/"+rest:
		t.mistake = "write one slash only before " + name + " and after it"
	case t.endpoint != writeEndpoint:
		t.mistake = "nothing follows the address: the path is /" + name + "/{address}"
	case segment != t.address:
		t.mistake = "write the / after the address as it is, not as %2F"
	case more:
		t.mistake = "a stream id is one path segment: write / as %2F, and no slash at the end"
	default:
		t.mistake = "the stream id is missing: the path is /write/{producerAddress}/{streamId}"
	}
	return t, looksLikeAddress(t.address)
}

// isPost reports whether a request is a POST, or a browser's question whether it may send one.
func isPost(r *http.Request) bool {
	return r.Method == http.MethodPost ||
		r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") == http.MethodPost
}

// secretLength is the length of the shortest text that can be a secret: 128 bits in base64.
const secretLength = 22

// looksLikeAddress reports whether a segment has the shape of an address (protocol.md 1.1), of this server or of another
// one. Names of files do not have it.
func looksLikeAddress(segment string) bool {
	agent, secret, ok := strings.Cut(segment, ".")
	return ok && len(secret) >= secretLength && broker.ValidAgent(agent) && broker.ValidAgent(secret)
}

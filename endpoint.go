package megaphone

import (
	"net/http"
	"net/url"
	"strings"
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

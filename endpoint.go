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

// permissions are the names by which a site says what it serves, and the endpoints that each stands for.
var permissions = map[string][]endpoint{
	"create": {createEndpoint},
	"write":  {writeEndpoint, writeBatchEndpoint, ingestEndpoint},
	"read":   {readEndpoint},
	"exists": {channelsExistEndpoint},
	"manage": {manageEndpoint},
	"health": {healthEndpoint},
	"ui":     {uiEndpoint},
}

// permissionNames are the names of permissions, in the order in which they are told.
var permissionNames = []string{"create", "write", "read", "exists", "manage", "health", "ui"}

// standardPermissions are those of a site that names none.
var standardPermissions = permissionNames[:4]

// endpointNames are the names of endpoints in logs and metrics.
var endpointNames = []string{"create", "write", "write-batch", "ingest", "read", "channelsExists", "manage", "health", "ui"}

// String returns the endpoint's name in logs and metrics.
func (e endpoint) String() string {
	return endpointNames[e]
}

var (
	readMethods   = []string{http.MethodGet, http.MethodHead}
	postMethods   = []string{http.MethodPost}
	manageMethods = []string{http.MethodGet, http.MethodHead, http.MethodDelete}
)

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

// A target is what a request's path names.
type target struct {
	endpoint endpoint
	address  string // of write, read and manage
	streamID string // of write
	file     string // of ui
}

// parseTarget reads a request's path. It reports false for a path that is no endpoint's.
func parseTarget(u *url.URL) (t target, ok bool) {
	// A path with an escaped slash in a segment is told apart by RawPath only, which is otherwise empty.
	path, unescape := u.Path, func(s string) (string, error) { return s, nil }
	if u.RawPath != "" {
		path, unescape = u.EscapedPath(), url.PathUnescape
	}
	name, rest, hasRest := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case name == "write" && hasRest:
		t.endpoint = writeEndpoint
		t.address, t.streamID, ok = strings.Cut(rest, "/")
		ok = ok && !strings.Contains(t.streamID, "/")
	case name == "read" && hasRest:
		t.endpoint, t.address = readEndpoint, rest
		ok = !strings.Contains(rest, "/")
	case name == "channel" && hasRest:
		t.endpoint, t.address = manageEndpoint, rest
		ok = !strings.Contains(rest, "/")
	case name == "health" && !hasRest:
		t.endpoint, ok = healthEndpoint, true
	case name == "create" && !hasRest:
		t.endpoint, ok = createEndpoint, true
	case name == "write" && !hasRest:
		t.endpoint, ok = ingestEndpoint, true
	case name == "write-batch" && !hasRest:
		t.endpoint, ok = writeBatchEndpoint, true
	case name == "channelsExists" && !hasRest:
		t.endpoint, ok = channelsExistEndpoint, true
	case name == "ui":
		t.endpoint = uiEndpoint
		t.file, ok = parseUIPath(rest, hasRest)
	}
	if !ok {
		return target{}, false
	}
	var errs [2]error
	t.address, errs[0] = unescape(t.address)
	t.streamID, errs[1] = unescape(t.streamID)
	return t, errs[0] == nil && errs[1] == nil
}

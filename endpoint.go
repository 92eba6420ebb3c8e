package megaphone

import (
	"net/http"
	"net/url"
	"slices"
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
	topicEndpoint
	memberEndpoint
	closeEndpoint
	publishEndpoint
	healthEndpoint
	uiEndpoint
	endpointCount
)

// permissions are the names by which a site says what it serves, and the endpoints that each name stands for.
var permissions = map[string][]endpoint{
	"create":  {createEndpoint},
	"write":   {writeEndpoint, writeBatchEndpoint, ingestEndpoint},
	"read":    {readEndpoint},
	"exists":  {channelsExistEndpoint},
	"manage":  {manageEndpoint},
	"topics":  {topicEndpoint, memberEndpoint, closeEndpoint},
	"publish": {publishEndpoint},
	"health":  {healthEndpoint},
	"ui":      {uiEndpoint},
}

// permissionNames are the names of permissions, in the order in which docs and errors list them.
var permissionNames = []string{"create", "write", "read", "exists", "manage", "topics", "publish", "health", "ui"}

// standardPermissions are the permissions of a site that names none.
var standardPermissions = permissionNames[:4]

// endpointNames are the names of endpoints in logs and metrics.
var endpointNames = []string{
	"create", "write", "write-batch", "ingest", "read", "channelsExists", "manage", "topic", "topic-member", "topic-close", "publish",
	"health", "ui",
}

// String returns the endpoint's name in logs and metrics.
func (e endpoint) String() string { return endpointNames[e] }

var (
	readMethods   = []string{http.MethodGet, http.MethodHead}
	postMethods   = []string{http.MethodPost}
	manageMethods = []string{http.MethodGet, http.MethodHead, http.MethodDelete}
	topicMethods  = []string{http.MethodGet, http.MethodHead, http.MethodPut}
	memberMethods = []string{http.MethodPut, http.MethodDelete}
)

// methods returns the methods that the endpoint serves.
func (e endpoint) methods() []string {
	switch e {
	case readEndpoint, healthEndpoint, uiEndpoint:
		return readMethods
	case manageEndpoint:
		return manageMethods
	case topicEndpoint:
		return topicMethods
	case memberEndpoint:
		return memberMethods
	default:
		return postMethods
	}
}

// takesBody reports whether the body of a request to the endpoint means something.
func (e endpoint) takesBody(method string) bool {
	switch e {
	case readEndpoint, manageEndpoint, memberEndpoint, healthEndpoint, uiEndpoint:
		return false
	case topicEndpoint:
		return method == http.MethodPut
	default:
		return true
	}
}

// A target is what a request's path names.
type target struct {
	endpoint endpoint
	address  string // of write, read, manage and topic-member
	topic    string // of publish and all about a topic
	streamID string // of write and publish
	file     string // of ui

	// mistake is what is wrong with the path, if it is nearly the endpoint's. Only the endpoint is sure then, and the
	// address if there is one.
	mistake string
}

// find sets t to what a request's path names. It reports false if the path belongs to no endpoint.
func (t *target) find(r *http.Request) (ok bool) {
	if *t, ok = parseTarget(r.URL); !ok {
		*t, ok = parseWrongPath(r)
	}
	return ok
}

// parseTarget reads a request's path. It reports false if the path belongs to no endpoint.
func parseTarget(u *url.URL) (t target, ok bool) {
	path := u.Path
	escaped := u.RawPath != "" // only then does a segment have an escaped slash
	if escaped {
		path = u.EscapedPath()
	}
	name, rest, hasRest := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if escaped {
		name = unescapeName(name)
	}
	switch {
	case name == "ui":
		t.endpoint = uiEndpoint
		t.file, ok = parseUIPath(rest, hasRest)
	case hasRest && (name == "topic" || name == "publish"):
		t, ok = parseTopicPath(name, rest)
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

// unescapeName decodes the first segment of a path: /%63reate is /create (RFC 3986, 6.2.2.2), as it is for Caddy's matchers. A
// name that cannot be decoded is no endpoint's.
func unescapeName(name string) string {
	plain, err := url.PathUnescape(name)
	if err != nil {
		return name
	}
	return plain
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

// parseTopicPath reads a path of which a topic follows the name.
func parseTopicPath(name, rest string) (t target, ok bool) {
	var last string
	var hasLast bool
	t.topic, last, hasLast = strings.Cut(rest, "/")
	if t.topic == "" || strings.Contains(last, "/") {
		return t, false
	}
	switch {
	case name == "publish":
		t.endpoint, t.streamID = publishEndpoint, last
		return t, hasLast
	case !hasLast:
		t.endpoint = topicEndpoint
	case last == "close":
		t.endpoint = closeEndpoint
	default:
		t.endpoint, t.address = memberEndpoint, last
		return t, strings.Contains(last, ".") // as every address has
	}
	return t, true
}

// unescape decodes the segments of an escaped path.
func (t *target) unescape() error {
	for _, segment := range []*string{&t.address, &t.topic, &t.streamID} {
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
	written, rest, hasRest := strings.Cut(strings.TrimLeft(path, "/"), "/")
	name := unescapeName(written)
	if name == "topic" || name == "publish" {
		return wrongTopicPath(path, name, rest, hasRest, r.Method)
	}
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
	case path != "/"+written+"/"+rest:
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

// wrongTopicPath says what is wrong with a path of a topic. Any name may be a topic's, so all below these two names is meant
// for the endpoints. Without a topic, a request is meant for them unless it only reads.
func wrongTopicPath(path, name, rest string, hasRest bool, method string) (t target, ok bool) {
	topic, last, hasLast := strings.Cut(rest, "/")
	t.endpoint = topicEndpoint
	switch {
	case topic == "":
		t.mistake = "the name of the topic is missing"
		ok = hasLast || !slices.Contains(readMethods, method)
	case strings.HasPrefix(path, "//"):
		t.mistake = "write one slash only before " + name
	case strings.Contains(last, "/"):
		t.mistake = "the name of a topic is one path segment: write / as %2F, and no slash at the end"
	case name == "publish":
		t.mistake = "the stream id is missing"
	case last == "":
		t.mistake = "there is a slash too many at the end"
	default:
		t.mistake = "a producer address or close follows the topic"
	}
	if name == "publish" {
		t.endpoint = publishEndpoint
		t.mistake += ": the path is /publish/{topic}/{streamId}"
	} else {
		t.mistake += ": the path is /topic/{topic}, /topic/{topic}/{producerAddress} or /topic/{topic}/close"
	}
	return t, ok || topic != "" && hasRest
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

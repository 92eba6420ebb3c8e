// Package megaphone is a client of Megaphone for Go: for consumers, which read a channel, and for producers, which create
// channels and write to them.
//
//	server := &megaphone.Client{URL: "http://127.0.0.1:3000"}
//	for event, err := range server.Read(ctx, consumerAddress, megaphone.ReadOptions{}) {
//		if err != nil {
//			return err // nothing more will come
//		}
//		fmt.Println(event.StreamID, string(event.Body))
//	}
//
// The sections that the comments name are those of docs/protocol.md.
package megaphone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Client sends requests to a site that serves Megaphone. Set the fields before the first call, and do not change them
// later. Any number of goroutines may use a Client at once.
type Client struct {
	// URL is the URL below which the site serves Megaphone, such as https://app.example.com or http://127.0.0.1:3000. A user
	// and password in it are sent as HTTP Basic authentication. Its query goes with each request.
	URL string

	// HTTP sends the requests; nil means [http.DefaultClient]. It must have no Timeout, which would end reads: use contexts.
	HTTP *http.Client

	// Header, if not nil, returns header fields for a request, such as Authorization. It is called for each request, also when a
	// read connects again, so that it may return a token that is valid then. An error of Header is the error of the request.
	// A field Host replaces the host of the URL.
	Header func(ctx context.Context) (http.Header, error)
}

// An Error is an error reply of Megaphone (1.2).
type Error struct {
	// Status is the status of the reply, Code says what is wrong in words for programs, and Message in words for people.
	Status        int
	Code, Message string
	// RetryAfter is how long to wait before another try, if the server says so.
	RetryAfter time.Duration

	reply []byte // the whole body
}

// Error returns the message with its status.
func (e *Error) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Message) }

// Is makes [errors.Is] find [ErrNotFound] and [ErrTopicClosed].
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Code == "NOT_FOUND"
	case ErrTopicClosed:
		return e.Code == "CLOSED"
	}
	return false
}

// Errors that [errors.Is] finds in the errors of this package.
var (
	// ErrNotFound means that there is no such channel: it has expired, was deleted, or never existed. Reading and writing it
	// will never succeed. A consumer asks its backend for a new channel.
	ErrNotFound = errors.New("no such channel")

	// ErrTopicClosed means that the topic has ended, so that nothing can be published to it.
	ErrTopicClosed = errors.New("the topic is closed")

	// ErrTakenOver means that another consumer reads the channel now. Only a [WebSocket] read learns of it.
	ErrTakenOver = errors.New("another consumer has taken over")

	// ErrUncertain means that it is not known whether the server has done what the request asked for. A write that has a key
	// may be repeated.
	ErrUncertain = errors.New("the outcome is not known")
)

// uncertain marks an error with [ErrUncertain], without changing what it says.
type uncertain struct{ error }

func (e uncertain) Unwrap() []error { return []error{e.error, ErrUncertain} }

// Media types of replies and bodies.
const (
	jsonType   = "application/json"
	ndjsonType = "application/x-ndjson"
	sseType    = "text/event-stream"
)

// A request is a request to an endpoint.
type request struct {
	method string
	path   string // escaped, below the URL of the client
	query  url.Values
	header http.Header
	body   io.Reader
}

// do sends a request. Only a reply with a 2xx status and this Content-Type is a success, or one with status 101 if the type is
// empty: another server, or a site of Caddy without Megaphone, may answer anything with status 200.
func (c *Client) do(ctx context.Context, q request, contentType string) (*http.Response, error) {
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	r, err := c.newRequest(traced, q)
	if err != nil {
		return nil, err
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(r)
	if err != nil {
		err = fmt.Errorf("the site %s is not reachable: %w", r.URL.Scheme+"://"+r.URL.Host, hideURL(err))
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if connected.Load() {
			err = uncertain{err}
		}
		return nil, err
	}
	if isSuccess(response, contentType) {
		return response, nil
	}
	defer response.Body.Close()
	return nil, replyError(response, q.path)
}

func isSuccess(response *http.Response, contentType string) bool {
	if contentType == "" {
		return response.StatusCode == http.StatusSwitchingProtocols
	}
	mediaType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	return response.StatusCode/100 == 2 && strings.TrimSpace(mediaType) == contentType
}

// newRequest builds the HTTP request. The fields of the request replace those of [Client].Header.
func (c *Client) newRequest(ctx context.Context, q request) (*http.Request, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.Fragment != "" {
		// The message does not quote the URL, because even a malformed one may have a password.
		return nil, &finalError{errors.New("the URL of the client is not a valid URL of a site, such as http://127.0.0.1:3000")}
	}
	for segment := range strings.SplitSeq(q.path, "/") {
		if segment == "." || segment == ".." { // browsers and proxies resolve it: the request would go elsewhere
			return nil, &finalError{fmt.Errorf("a stream id, topic or address cannot be %q in a path: WriteBatch and Ingest take any stream id", segment)}
		}
	}
	query := base.Query()
	maps.Copy(query, q.query)
	target := *base
	target.Path, target.RawPath, target.RawQuery = "", "", ""
	r, err := http.NewRequestWithContext(ctx, q.method, target.String()+strings.TrimSuffix(base.EscapedPath(), "/")+q.path, q.body)
	if err != nil {
		return nil, hideURL(err)
	}
	r.URL.RawQuery = query.Encode()
	if c.Header != nil {
		header, err := c.Header(ctx)
		if err != nil {
			return nil, err
		}
		r.Header = header.Clone()
	}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	maps.Copy(r.Header, q.header)
	if host := r.Header.Get("Host"); host != "" { // net/http does not send this field of Header
		r.Host = host
		r.Header.Del("Host")
	}
	return r, nil
}

// replyError returns the error for a reply that is not a success.
func replyError(response *http.Response, path string) error {
	var text []byte
	if response.StatusCode/100 != 2 { // a success of another server may be endless
		text, _ = io.ReadAll(io.LimitReader(response.Body, maxReply))
	}
	var reply struct{ Code, Message string }
	if json.Unmarshal(text, &reply) == nil && reply.Code != "" {
		refused := &Error{Status: response.StatusCode, Code: reply.Code, Message: reply.Message, reply: text}
		if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
			refused.RetryAfter = time.Duration(seconds) * time.Second
		}
		if response.StatusCode == http.StatusInternalServerError {
			return uncertain{refused}
		}
		return refused
	}
	err := &ReplyError{
		Site: response.Request.URL.Scheme + "://" + response.Request.URL.Host, Endpoint: strings.SplitN(path, "/", 3)[1],
		Status: response.StatusCode, ContentType: response.Header.Get("Content-Type"),
	}
	if response.StatusCode >= 500 { // from a proxy, which may have passed the request on
		return uncertain{err}
	}
	return err
}

// A ReplyError is a reply that is not Megaphone's: of a proxy, of another server, or of a site that does not serve the endpoint.
type ReplyError struct {
	Site, Endpoint string
	Status         int
	ContentType    string
}

// Error says what came, and what to check.
func (e *ReplyError) Error() string {
	got := fmt.Sprintf("status %d", e.Status)
	if e.ContentType != "" {
		got += " with Content-Type " + e.ContentType
	}
	return fmt.Sprintf("the site %s does not serve Megaphone's endpoint %s: it answers with %s", e.Site, e.Endpoint, got)
}

// hideURL returns an error of [http.Client] without the URL, which may have a password.
func hideURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// maxReply is how many bytes of a reply are read that is not a stream.
const maxReply = 16 << 20

// fetch sends a request whose reply is JSON, and returns the reply.
func (c *Client) fetch(ctx context.Context, q request) ([]byte, error) {
	response, err := c.do(ctx, q, jsonType)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, uncertain{fmt.Errorf("cannot read the reply: %w", err)}
	}
	return reply, nil
}

// call sends a request, with body as JSON unless that is nil. It returns the reply, which it decodes into v unless that is nil.
func (c *Client) call(ctx context.Context, q request, body, v any) (reply []byte, err error) {
	if body != nil {
		text, err := encode(body)
		if err != nil {
			return nil, err
		}
		q.body = bytes.NewReader(text)
		q.header = http.Header{"Content-Type": {jsonType}}
	}
	reply, err = c.fetch(ctx, q)
	if err != nil || v == nil {
		return reply, err
	}
	if err := json.Unmarshal(reply, v); err != nil {
		return reply, uncertain{fmt.Errorf("cannot decode the reply: %w", err)}
	}
	return reply, nil
}

// encode returns a value as JSON. It leaves <, > and & as they are.
func encode(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok && json.Valid(raw) {
		return raw, nil
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

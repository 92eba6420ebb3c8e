// Package pattern recognises HTTP/1.1 requests that repeat an earlier one in all but the end of their path, their length
// and their idempotency key. It is no parser of its own: what a request may look like is up to net/http, which has read
// one whose other bytes are the same.
package pattern

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
)

// MaxBody is the length, in bytes, of the longest body of a request that is recognised.
const MaxBody = 64 << 10

// A Request is what differs in a request. It refers to the bytes that it was read from.
type Request struct {
	Path   []byte // what follows the prefix: unreserved characters (RFC 3986, 2.3) and slashes
	Key    []byte // the value of Idempotency-Key, visible ASCII; nil if there is none
	Length int    // of the body
}

// A Pattern is the header of a request, with holes where others may differ.
type Pattern struct {
	begin []byte // the method, and the prefix of the path
	parts []part // what follows the path
}

// A part is bytes that do not differ, and what does.
type part struct {
	same []byte
	hole hole // after them
}

// A hole is the value of a header that may differ.
type hole int

const (
	none hole = iota // after the last part
	length
	key
)

// holes are the headers whose values may differ.
var holes = map[string]hole{"Content-Length": length, "Idempotency-Key": key}

// Same reports whether two headers are the same but for what may differ.
func Same(a, b http.Header) bool { return includes(a, b) && includes(b, a) }

func includes(a, b http.Header) bool {
	for name, values := range b {
		if holes[name] == none && !slices.Equal(a[name], values) {
			return false
		}
	}
	return true
}

// Learn makes a pattern of what a request begins with, from its first line to the empty one, if the request is like an
// earlier one that net/http has read, and its path has the prefix. It reports false if not, and if the request is not
// plain enough.
func Learn(head []byte, earlier *http.Request, prefix string) (*Pattern, bool) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil || r.Method != earlier.Method || r.Host != earlier.Host || r.Proto != earlier.Proto ||
		len(r.TransferEncoding) > 0 || r.Close || !Same(r.Header, earlier.Header) {
		return nil, false
	}
	// net/http takes other ends of lines, too.
	if n := bytes.Count(head, crlf); bytes.Count(head, crlf[:1]) != n || bytes.Count(head, crlf[1:]) != n {
		return nil, false
	}
	p := &Pattern{begin: []byte(r.Method + " " + prefix)}
	at := len(p.begin) + max(0, bytes.IndexByte(head[min(len(p.begin), len(head)):], ' '))
	if !p.divide(bytes.Clone(head[at:])) {
		return nil, false
	}
	same, ok := p.Match(head)
	return p, ok && int64(same.Length) == r.ContentLength && string(same.Key) == r.Header.Get("Idempotency-Key")
}

var crlf = []byte("\r\n")

// divide divides a header, which begins after the path, into parts. There must be one length, and at most one key.
func (p *Pattern) divide(header []byte) bool {
	var seen [3]int
	begin := 0 // of the part
	for at := bytes.Index(header, crlf) + len(crlf); at < len(header); {
		line, _, _ := bytes.Cut(header[at:], crlf)
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			return false // belongs to the line before it
		}
		name, after, _ := bytes.Cut(line, colon)
		if hole := holes[http.CanonicalHeaderKey(string(name))]; hole != none {
			if seen[hole]++; len(after) == 0 || after[0] != ' ' {
				return false
			}
			value := at + len(name) + len(": ")
			p.parts = append(p.parts, part{header[begin:value], hole})
			begin = at + len(line)
		}
		at += len(line) + len(crlf)
	}
	p.parts = append(p.parts, part{header[begin:], none})
	return seen[length] == 1 && seen[key] <= 1
}

var colon = []byte(":")

// Match reads what a request begins with, from its first line to the empty one. It reports false if the request differs
// in anything else from the one that the pattern was made of.
func (p *Pattern) Match(head []byte) (r Request, ok bool) {
	rest, ok := bytes.CutPrefix(head, p.begin)
	if !ok {
		return r, false
	}
	if r.Path, rest, ok = cut(rest, ' ', isPath); !ok {
		return r, false
	}
	for _, part := range p.parts {
		if rest, ok = bytes.CutPrefix(rest, part.same); !ok {
			return r, false
		}
		switch part.hole {
		case length:
			var digits []byte
			if digits, rest, ok = cut(rest, '\r', isDigit); ok {
				r.Length, ok = number(digits)
			}
		case key:
			r.Key, rest, ok = cut(rest, '\r', isVisible)
		default:
			ok = len(rest) == 0
		}
		if !ok {
			return r, false
		}
	}
	return r, true
}

// cut returns what is before an end and the rest, which begins with it. It reports false if there is nothing before it,
// or a byte that may not be.
func cut(p []byte, end byte, may func(byte) bool) (before, rest []byte, ok bool) {
	for i, b := range p {
		if b == end {
			return p[:i], p[i:], i > 0
		}
		if !may(b) {
			break
		}
	}
	return nil, p, false
}

// IsPath reports whether a path can be that of a [Request].
func IsPath(path string) bool {
	for i := range len(path) {
		if !isPath(path[i]) {
			return false
		}
	}
	return path != ""
}

func isPath(b byte) bool { return pathBytes[b] }

// pathBytes has those that may be in a path.
var pathBytes = func() (may [256]bool) {
	for _, b := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/") {
		may[b] = true
	}
	return may
}()

func isDigit(b byte) bool   { return '0' <= b && b <= '9' }
func isVisible(b byte) bool { return '!' <= b && b <= '~' }

// number reports false for what is above MaxBody.
func number(digits []byte) (n int, ok bool) {
	for _, d := range digits {
		if n = 10*n + int(d-'0'); n > MaxBody {
			return 0, false
		}
	}
	return n, true
}

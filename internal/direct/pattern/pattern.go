// Package pattern recognises HTTP/1.1 requests that repeat an earlier one in everything except the end of their path, their
// length and their idempotency key. It is not a parser: net/http has parsed an earlier request, and in all other bytes the
// requests are the same. The package knows nothing of Megaphone's protocol.
package pattern

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
)

// MaxBody is the length, in bytes, of the longest body that a recognised request may have.
const MaxBody = 64 << 10

// A Request has the parts in which a request may differ from the pattern. Path and Key share memory with the header that
// was passed to [Pattern.Match].
type Request struct {
	// Path is what follows the prefix: unreserved characters (RFC 3986, 2.3) and slashes, at least one of them.
	Path []byte
	// Key is the value of Idempotency-Key: visible ASCII, at least one character. It is nil if there is no key.
	Key []byte
	// Length is the length of the body in bytes, at most [MaxBody].
	Length int
}

// A Pattern is the header of a request, with holes where other requests may differ. It never changes.
type Pattern struct {
	begin []byte // the method, and the prefix of the path
	parts []part // what follows the path
}

// A part is bytes that must be the same, followed by a hole.
type part struct {
	same []byte
	hole hole
}

// A hole says which value may differ.
type hole int

const (
	none hole = iota // after the last part
	length
	key
)

// holes has the headers with values that may differ.
var holes = map[string]hole{"Content-Length": length, "Idempotency-Key": key}

// Same reports whether two headers are the same, except for the values that may differ.
func Same(a, b http.Header) bool { return includes(a, b) && includes(b, a) }

// Difference returns the names of the headers that keep two headers from being the same, in order, separated by commas.
func Difference(a, b http.Header) string {
	var names []string
	for _, pair := range [][2]http.Header{{a, b}, {b, a}} {
		for name, values := range pair[1] {
			if holes[name] == none && !slices.Equal(pair[0][name], values) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// includes reports whether a has all of b, except for the values that may differ.
func includes(a, b http.Header) bool {
	for name, values := range b {
		if holes[name] == none && !slices.Equal(a[name], values) {
			return false
		}
	}
	return true
}

// Learn makes a pattern from the head of a request: the request line and the header, with the empty line at the end. The
// path must begin with prefix, and the request must repeat an earlier one that net/http has parsed. Learn reports false if
// it does not, or if the head is written in a way that a pattern cannot have. It does not keep head.
func Learn(head []byte, earlier *http.Request, prefix string) (*Pattern, bool) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil || r.Method != earlier.Method || r.Host != earlier.Host || r.Proto != earlier.Proto ||
		len(r.TransferEncoding) > 0 || r.Close || !Same(r.Header, earlier.Header) {
		return nil, false
	}
	// net/http accepts lines that end in other ways too.
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

// divide divides what follows the path into parts. It reports false unless there is one length and at most one key.
func (p *Pattern) divide(header []byte) bool {
	var seen [3]int
	begin := 0 // where the part begins
	for at := bytes.Index(header, crlf) + len(crlf); at < len(header); {
		line, _, _ := bytes.Cut(header[at:], crlf)
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			return false // the line continues the one before it
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

// Match returns what may differ in the head of a request. It reports false if the head differs in anything else from the
// one that the pattern was made from.
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

// cut splits p before the first byte that is end. It reports false if nothing is before that byte, or if may does not
// allow a byte before it.
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

// IsPath reports whether path can be the Path of a [Request].
func IsPath(path string) bool {
	for i := range len(path) {
		if !isPath(path[i]) {
			return false
		}
	}
	return path != ""
}

func isPath(b byte) bool { return pathBytes[b] }

// pathBytes says which bytes a path may have.
var pathBytes = func() (may [256]bool) {
	for _, b := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/") {
		may[b] = true
	}
	return may
}()

func isDigit(b byte) bool   { return '0' <= b && b <= '9' }
func isVisible(b byte) bool { return '!' <= b && b <= '~' }

// number returns the value of decimal digits. It reports false if the value is above MaxBody.
func number(digits []byte) (n int, ok bool) {
	for _, d := range digits {
		if n = 10*n + int(d-'0'); n > MaxBody {
			return 0, false
		}
	}
	return n, true
}

package pattern

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

const prefix = "/write/"

// head returns the head of a request: some lines, and the empty line at the end.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

const (
	first  = "POST /write/a.b/c HTTP/1.1"
	second = "POST /write/d.e-_~/f HTTP/1.1"
	host   = "Host: localhost"
	json   = "Content-Type: application/json"
	long   = "Content-Length: 12"
)

// parse returns what net/http makes of the head of a request.
func parse(tb testing.TB, head string) *http.Request {
	tb.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestARequestThatRepeatsAnother(t *testing.T) {
	for name, test := range map[string]struct {
		earlier, learned, next string
		want                   Request
	}{
		"the same": {
			earlier: head(first, host, json, long), learned: head(first, host, json, long), next: head(first, host, json, long),
			want: Request{Path: []byte("a.b/c"), Length: 12},
		},
		"another path, length and key": {
			earlier: head(first, host, json, "Idempotency-Key: 1", long),
			learned: head(first, host, json, "Idempotency-Key: 2", long),
			next:    head(second, host, json, "Idempotency-Key: !~", "Content-Length: 0065536"),
			want:    Request{Path: []byte("d.e-_~/f"), Key: []byte("!~"), Length: MaxBody},
		},
		"another order and case than the earlier request": {
			earlier: head(first, host, json, long, "Accept: a", "Accept: b"),
			learned: head(first, "accept:a", "accept: b", "content-length: 1", json, host),
			next:    head(first, "accept:a", "accept: b", "content-length: 2", json, host),
			want:    Request{Path: []byte("a.b/c"), Length: 2},
		},
		"a key, which the earlier request lacks": {
			earlier: head(first, host, long),
			learned: head(first, host, "Content-Length: 1", "IDEMPOTENCY-KEY: x"),
			next:    head(first, host, "Content-Length: 2", "IDEMPOTENCY-KEY: y"),
			want:    Request{Path: []byte("a.b/c"), Length: 2, Key: []byte("y")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := Learn([]byte(test.learned), parse(t, test.earlier), prefix)
			if !ok {
				t.Fatal("the request was not learned")
			}
			got, ok := p.Match([]byte(test.next))
			if !ok || string(got.Path) != string(test.want.Path) || string(got.Key) != string(test.want.Key) ||
				got.Length != test.want.Length {
				t.Errorf("%v: path %q, key %q, length %d", ok, got.Path, got.Key, got.Length)
			}
		})
	}
}

func TestRequestsThatAreNotLearned(t *testing.T) {
	earlier := head(first, host, json, long)
	for name, learned := range map[string]string{
		"another method":                    head("PUT /write/a.b/c HTTP/1.1", host, json, long),
		"another version":                   head("POST /write/a.b/c HTTP/1.0", host, json, long),
		"another prefix":                    head("POST /read/a.b/c HTTP/1.1", host, json, long),
		"the prefix alone":                  head("POST /write/ HTTP/1.1", host, json, long),
		"a path that begins like it":        head("POST /write HTTP/1.1", host, json, long),
		"an absolute address":               head("POST http://localhost/write/a.b/c HTTP/1.1", host, json, long),
		"another host":                      head(first, "Host: example.com", json, long),
		"an extra header":                   head(first, host, json, long, "X: y"),
		"a missing header":                  head(first, host, long),
		"another value":                     head(first, host, "Content-Type: text/plain", long),
		"an extra value":                    head(first, host, json, json, long),
		"no length":                         head(first, host, json),
		"two lengths":                       head(first, host, json, long, long),
		"two keys":                          head(first, host, json, long, "Idempotency-Key: 1", "Idempotency-Key: 1"),
		"an empty key":                      head(first, host, json, long, "Idempotency-Key: "),
		"a length without a space":          head(first, host, json, "Content-Length:12"),
		"a length with two spaces":          head(first, host, json, "Content-Length:  12"),
		"a length that is not a number":     head(first, host, json, "Content-Length: x"),
		"chunks":                            head(first, host, json, "Transfer-Encoding: chunked"),
		"the end of the connection":         head(first, host, json, long, "Connection: close"),
		"a header over two lines":           head(first, host, "Content-Type: application/json", " ", long),
		"a line that ends with a line feed": strings.Replace(head(first, host, json, long), "json\r\n", "json\n", 1),
		"an empty line before it":           "\r\n" + head(first, host, json, long),
		"an escape in the path":             head("POST /write/a.b/%20 HTTP/1.1", host, json, long),
		"a query":                           head("POST /write/a.b/c?d HTTP/1.1", host, json, long),
		"no request":                        "\r\n\r\n",
		"nothing":                           "",
	} {
		t.Run(name, func(t *testing.T) {
			if _, ok := Learn([]byte(learned), parse(t, earlier), prefix); ok {
				t.Error("it was learned")
			}
		})
	}
}

func TestRequestsThatDoNotMatch(t *testing.T) {
	learned := head(first, host, json, "Idempotency-Key: 1", long)
	p, ok := Learn([]byte(learned), parse(t, learned), prefix)
	if !ok {
		t.Fatal("the request was not learned")
	}
	for name, next := range map[string]string{
		"another order":            head(first, json, host, "Idempotency-Key: 1", long),
		"another case":             head(first, host, strings.ToLower(json), "Idempotency-Key: 1", long),
		"no key":                   head(first, host, json, long),
		"an empty key":             head(first, host, json, "Idempotency-Key: ", long),
		"a key with a space":       head(first, host, json, "Idempotency-Key: a b", long),
		"a key that is not ASCII":  head(first, host, json, "Idempotency-Key: \x80", long),
		"no length":                head(first, host, json, "Idempotency-Key: 1", "Content-Length: "),
		"a signed length":          head(first, host, json, "Idempotency-Key: 1", "Content-Length: +1"),
		"a length in base 16":      head(first, host, json, "Idempotency-Key: 1", "Content-Length: 0x1"),
		"a length that is too big": head(first, host, json, "Idempotency-Key: 1", "Content-Length: 65537"),
		"a length that overflows":  head(first, host, json, "Idempotency-Key: 1", "Content-Length: 18446744073709551617"),
		"a space after the length": head(first, host, json, "Idempotency-Key: 1", "Content-Length: 1 "),
		"more than the head":       learned + "x",
		"less than the head":       learned[:len(learned)-1],
		"an escape in the path":    strings.Replace(learned, "a.b/c", "a.b/%63", 1),
		"an empty path":            strings.Replace(learned, "a.b/c", "", 1),
		"a space in the path":      strings.Replace(learned, "a.b/c", "a.b/c d", 1),
		"another version":          strings.Replace(learned, "1.1", "1.0", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if r, ok := p.Match([]byte(next)); ok {
				t.Errorf("it matches: %q %q %d", r.Path, r.Key, r.Length)
			}
		})
	}
}

// FuzzPattern checks that net/http reads every request that matches, and reads it as the pattern does.
func FuzzPattern(f *testing.F) {
	plain := head(first, host, json, "Idempotency-Key: 1", long)
	f.Add(plain, plain, plain)
	f.Add(plain, plain, head(second, host, json, "Idempotency-Key: 22", "Content-Length: 007"))
	f.Add(plain, head(first, host, long, "Content-Length : 12"), head(first, host, long, "Content-Length : 13"))
	f.Add(plain, head(first, host, "Content-Length: 12\nContent-Length: 12"),
		head(first, host, "Content-Length: 13\nContent-Length: 12"))
	f.Add(plain, head(first, host, long, "A:", " b"), head(first, host, "Content-Length: 0", "A:", " b"))
	f.Fuzz(func(t *testing.T, before, learned, next string) {
		earlier, err := http.ReadRequest(bufio.NewReader(strings.NewReader(before)))
		if err != nil {
			return
		}
		p, ok := Learn([]byte(learned), earlier, prefix)
		if !ok {
			return
		}
		got, ok := p.Match([]byte(next))
		if !ok {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(next)))
		switch {
		case err != nil:
			t.Fatal(err)
		case r.Method != earlier.Method, r.Host != earlier.Host, r.Proto != earlier.Proto, r.Close, len(r.TransferEncoding) > 0,
			!Same(r.Header, earlier.Header), r.RequestURI != prefix+string(got.Path), r.URL.Path != r.RequestURI, r.URL.RawPath != "",
			r.ContentLength != int64(got.Length), r.Header.Get("Content-Length") == "",
			len(r.Header.Values("Idempotency-Key")) > 1, r.Header.Get("Idempotency-Key") != string(got.Key):
			t.Errorf("net/http reads %q in another way: path %q, key %q, length %d", next, got.Path, got.Key, got.Length)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	text := head(first, host, "User-Agent: Go-http-client/1.1", long, json, "Accept-Encoding: gzip")
	learned := []byte(text)
	p, ok := Learn(learned, parse(b, text), prefix)
	if !ok {
		b.Fatal("the request was not learned")
	}
	b.ReportAllocs()
	for b.Loop() {
		if r, ok := p.Match(learned); !ok || strconv.Itoa(r.Length) != "12" {
			b.Fatal("the request does not match")
		}
	}
}

package httpjson_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// An encoder compresses what is written to it. Flush makes all of that decodable.
type encoder interface {
	io.WriteCloser
	Flush() error
}

// encoders are the content codings that are understood.
var encoders = map[string]func(io.Writer) encoder{
	"gzip": func(w io.Writer) encoder { return gzip.NewWriter(w) },
	"zstd": func(w io.Writer) encoder {
		e, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		return e
	},
}

// encode returns text in a content coding.
func encode(t *testing.T, coding string, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	e := encoders[coding](&b)
	_, err := e.Write(text)
	if err := errors.Join(err, e.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func request(coding string, body io.Reader) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", body)
	if coding != "" {
		r.Header["Content-Encoding"] = strings.Split(coding, "|")
	}
	return r
}

// status returns the status of the reply to a request that fails with err.
func status(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return httpjson.ErrorOf(err).Status
}

func TestBodiesAreDecoded(t *testing.T) {
	const limit = 100_000
	random := make([]byte, limit)
	_, _ = rand.Read(random)
	bomb := make([]byte, 50_000_000)
	for coding := range encoders {
		for name, test := range map[string]struct {
			text []byte
			want int
		}{
			"short":                          {[]byte(`{"a":1}`), http.StatusOK},
			"at the limit":                   {bytes.Repeat([]byte("1"), limit), http.StatusOK},
			"at the limit, not compressible": {random, http.StatusOK},
			"above the limit":                {bytes.Repeat([]byte("1"), limit+1), http.StatusRequestEntityTooLarge},
			"a bomb":                         {bomb, http.StatusRequestEntityTooLarge},
		} {
			encoded := encode(t, coding, test.text)
			body, err := httpjson.ReadBody(request(coding, bytes.NewReader(encoded)), limit)
			if status(err) != test.want {
				t.Errorf("%s, %s: %v", coding, name, err)
			} else if err == nil && !bytes.Equal(body.Bytes(), test.text) {
				t.Errorf("%s, %s: %d bytes are read, want %d", coding, name, body.Len(), len(test.text))
			}
		}
	}
}

func TestDamagedBodiesAreRefused(t *testing.T) {
	text := []byte(`{"a":"a body that is long enough for some bytes of each kind"}`)
	for coding := range encoders {
		encoded := encode(t, coding, text)
		for i := 1; i < len(encoded); i++ {
			if _, err := httpjson.ReadBody(request(coding, bytes.NewReader(encoded[:i])), 1000); status(err) != http.StatusBadRequest {
				t.Errorf("%s: %d of %d bytes: %v", coding, i, len(encoded), err)
			}
		}
		for name, body := range map[string][]byte{"plain text": text, "something behind it": append(bytes.Clone(encoded), "x"...)} {
			_, err := httpjson.ReadBody(request(coding, bytes.NewReader(body)), 1000)
			if status(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "not valid "+coding) {
				t.Errorf("%s: %s: %v", coding, name, err)
			}
		}
		if _, err := httpjson.ReadBody(request(coding, bytes.NewReader(make([]byte, 3000))), 1000); status(err) != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: an encoded body above the limit: %v", coding, err)
		}
	}
	// A frame that asks for a window of 16 MiB.
	_, err := httpjson.ReadBody(request("zstd", bytes.NewReader([]byte("\x28\xb5\x2f\xfd\x00\x70\x01\x00\x00"))), 1000)
	if status(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "window of more than 8 MiB") {
		t.Errorf("a large window: %v", err)
	}
}

func TestContentEncodings(t *testing.T) {
	text := []byte("1")
	for coding, want := range map[string]int{
		"": 200, "identity": 200, "GZIP": 200, "x-gzip": 200, "zstd": 200, "br": 415, "deflate": 415, "gzip, gzip": 415, "gzip|gzip": 415,
		"identity, gzip": 415, "*": 415,
	} {
		body := text
		switch {
		case want != 200:
		case strings.Contains(strings.ToLower(coding), "gzip"):
			body = encode(t, "gzip", text)
		case coding == "zstd":
			body = encode(t, coding, text)
		}
		_, err := httpjson.ReadBody(request(coding, bytes.NewReader(body)), 1000)
		if status(err) != want {
			t.Errorf("%q: %v, want status %d", coding, err, want)
		}
		_, free, streamErr := httpjson.StreamBody(request(coding, bytes.NewReader(body)), 1000)
		if status(streamErr) != want {
			t.Errorf("stream in %q: %v, want status %d", coding, streamErr, want)
		}
		if streamErr == nil {
			free()
			continue
		}
		w := httptest.NewRecorder()
		httpjson.ErrorOf(err).Write(w, &http.Request{ProtoMajor: 2})
		if got := w.Header().Get("Accept-Encoding"); got != "gzip, zstd" {
			t.Errorf("%q: Accept-Encoding: %q", coding, got)
		}
	}
}

// TestStreamsAreDecodedAsTheyArrive: what the client has flushed can be read before more arrives.
func TestStreamsAreDecodedAsTheyArrive(t *testing.T) {
	for coding, newEncoder := range encoders {
		t.Run(coding, func(t *testing.T) {
			arriving, sent := io.Pipe()
			defer sent.Close()
			body, free, err := httpjson.StreamBody(request(coding, arriving), 1000)
			if err != nil {
				t.Fatal(err)
			}
			defer free()
			next := make(chan bool)
			go func() {
				e := newEncoder(sent)
				for i := 0; <-next; i++ {
					fmt.Fprintf(e, "line %d\n", i)
					_ = e.Flush()
				}
				sent.CloseWithError(os.ErrDeadlineExceeded)
			}()
			p := make([]byte, 1000)
			for i := range 3 {
				next <- true
				if n, err := body.Read(p); string(p[:n]) != fmt.Sprintf("line %d\n", i) {
					t.Fatalf("line %d: %q, %v", i, p[:n], err)
				}
			}
			next <- false
			if _, err := body.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the error of the connection is %v", err)
			}
		})
	}
}

// TestStreamsThatAreBombsEnd: a stream has no limit as a whole, but may not become much more than what arrives.
func TestStreamsThatAreBombsEnd(t *testing.T) {
	lines := bytes.Repeat([]byte("\n"), 20_000_000)
	for coding := range encoders {
		body, free, err := httpjson.StreamBody(request(coding, bytes.NewReader(encode(t, coding, lines))), 1000)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, body)
		if status(httpjson.BodyError(err)) != http.StatusRequestEntityTooLarge || n > 10_000_000 {
			t.Errorf("%s: %d bytes, %v", coding, n, err)
		}
		free()
		damaged := append(encode(t, coding, []byte("line\n")), "x"...)
		if body, free, err = httpjson.StreamBody(request(coding, bytes.NewReader(damaged)), 1000); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if status(httpjson.BodyError(err)) != http.StatusBadRequest || string(text) != "line\n" {
			t.Errorf("%s: a damaged stream: %q, %v", coding, text, err)
		}
		free()
	}
}

// TestMemoryOfZstd: a decoder may take 8 MiB, so only a few work at once.
func TestMemoryOfZstd(t *testing.T) {
	var opened []func()
	for {
		_, free, err := httpjson.StreamBody(request("zstd", strings.NewReader("")), 1000)
		if err != nil {
			if e := httpjson.ErrorOf(err); e.Code != "LIMIT_REACHED" || len(opened) != 32 {
				t.Errorf("stream %d: %v", len(opened), err)
			}
			break
		}
		opened = append(opened, free)
	}
	for _, free := range opened {
		free()
	}
	encoded := encode(t, "zstd", bytes.Repeat([]byte("1"), 1000))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if _, err := httpjson.ReadBody(request("zstd", bytes.NewReader(encoded)), 1000); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	runtime.ReadMemStats(&after)
	if taken := (after.Sys - before.Sys) >> 20; taken > 200 {
		t.Errorf("200 bodies at once take %d MiB", taken)
	}
}

// FuzzEncodedBody checks that no body makes ReadBody panic, or return more than the limit.
func FuzzEncodedBody(f *testing.F) {
	f.Add("gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff3\x04\x00\xb7\xef\xdc\x83\x01\x00\x00\x00"))
	f.Add("zstd", []byte("\x28\xb5\x2f\xfd\x04\x00\x09\x00\x001\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, coding string, encoded []byte) {
		body, err := httpjson.ReadBody(request(coding, bytes.NewReader(encoded)), 1000)
		if err == nil && body.Len() > 1000 {
			t.Errorf("%d bytes are read", body.Len())
		}
		if s := status(err); s != 200 && s != 400 && s != 413 && s != 415 {
			t.Errorf("status %d: %v", s, err)
		}
	})
}

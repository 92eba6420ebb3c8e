package transport

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"weak"

	"github.com/google/uuid"
)

// readChunks returns the data of each chunk of a body without its last chunk.
func readChunks(t *testing.T, body []byte) (data []string) {
	t.Helper()
	for len(body) > 0 {
		header, rest, _ := bytes.Cut(body, crlf)
		size, err := strconv.ParseUint(string(header), 16, 31)
		if err != nil || size == 0 || len(rest) < int(size)+len(crlf) || !bytes.Equal(rest[size:][:len(crlf)], crlf) {
			t.Fatalf("the chunk with header %q has %d bytes, want %d; the error is %v", header, len(rest), size, err)
		}
		data = append(data, string(rest[:size]))
		body = rest[int(size)+len(crlf):]
	}
	return data
}

func TestEventsThatFitShareAChunk(t *testing.T) {
	for _, test := range []struct {
		events, chunks []int
	}{
		{nil, nil},
		{[]int{0}, nil}, // an empty chunk would end the body
		{[]int{1}, []int{1}},
		{[]int{15, 1}, []int{16}}, // the header gets one more digit
		{[]int{1, 14, 1, 239, 1}, []int{256}},
		{[]int{1, 255}, []int{256}}, // two more digits
		{[]int{1, 0, 300, 4000 - 301}, []int{4000}},
		{[]int{maxNDJSONWrite - 1, 1, 1}, []int{maxNDJSONWrite, 1}},
		{[]int{10, maxNDJSONWrite, 10}, []int{10, maxNDJSONWrite, 10}},
		{[]int{10, maxNDJSONWrite + 1, 10, 10}, []int{10, maxNDJSONWrite + 1, 20}},
		{[]int{10, minShared - 1, minShared, 10, 10}, []int{10, minShared - 1, minShared, 20}},
		{[]int{minShared, 1_000_000, 1}, []int{minShared, 1_000_000, 1}},
		{[]int{300, 2000, 2000, 5, 300}, []int{2300, 2305}},
	} {
		var c chunks
		for range 2 { // free empties it
			var want string
			for i, size := range test.events {
				line := strings.Repeat(string(rune('a'+i)), size)
				third := size / 3
				c.add([]byte(line[:third]), []byte(line[third:]), nil)
				want += line
			}
			c.close()
			var all []byte
			for piece := range c.pieces {
				all = append(all, piece...)
			}
			c.free()
			got := readChunks(t, all)
			var sizes []int
			for _, data := range got {
				sizes = append(sizes, len(data))
			}
			if !slices.Equal(sizes, test.chunks) {
				t.Errorf("events of %v bytes: got chunks of %v bytes, want %v", test.events, sizes, test.chunks)
			}
			if strings.Join(got, "") != want {
				t.Errorf("events of %v bytes: the data is not what was added", test.events)
			}
			body, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(bytes.NewReader(append(all, lastChunk...)))))
			if err != nil || string(body) != want {
				t.Errorf("events of %v bytes: Go read %d of %d bytes, %v", test.events, len(body), len(want), err)
			}
		}
	}
}

// After Flush, the transport keeps no line, whether it was sent or not.
func TestNoLineIsKeptAfterFlush(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			served, c := way.connector(t)()
			send := func(size int) (weak.Pointer[byte], error) {
				line := text(size)
				served.Append(uuid.UUID{}, line)
				return weak.Make(&line[0]), served.Flush()
			}
			isKept := func(line weak.Pointer[byte]) bool {
				runtime.GC()
				return line.Value() != nil
			}
			go func() { // takes the first message and part of the second, except what fits into the socket's buffer
				_, _ = io.CopyN(io.Discard, c, 220_000)
				c.Close()
			}()
			sent, err := send(200_000)
			if err != nil {
				t.Fatal(err)
			}
			if isKept(sent) {
				t.Error("a line is kept after it was sent")
			}
			failed, err := send(1_000_000)
			if err == nil {
				t.Error("Flush did not fail, although the client was gone")
			}
			if isKept(failed) {
				t.Error("a line is kept after Flush failed")
			}
			served.End(Broken)
		})
	}
}

package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// Bits of a frame's first byte (RFC 6455, 5.2).
const (
	final = 0x80
	rsv1  = 0x40
	rsv2  = 0x20
	rsv3  = 0x10

	opContinuation = 0
	opBinary       = 2
)

// sent returns a frame as a client sends it, with a mask.
func sent(first byte, payload string) string {
	size := []byte{0x80 | byte(len(payload))}
	switch n := len(payload); {
	case n > 0xffff:
		size = binary.BigEndian.AppendUint64([]byte{0x80 | 127}, uint64(n))
	case n > 125:
		size = binary.BigEndian.AppendUint16([]byte{0x80 | 126}, uint16(n))
	}
	return sentAs(first, size, payload)
}

// sentAs is like sent, but takes the bytes that hold the payload's size.
func sentAs(first byte, size []byte, payload string) string {
	mask := [4]byte{1, 2, 3, 200}
	text := []byte(payload)
	ws.Cipher(text, mask, 0)
	return string(slices.Concat([]byte{first}, size, mask[:], text))
}

// parsed returns the messages and control frames that a parser finds in pieces, and the code of the violation. It
// checks that the parser keeps no more than it may.
func parsed(t *testing.T, compression bool, pieces ...string) (found []string, code ws.StatusCode) {
	t.Helper()
	p := parser{compression: compression, handle: func(opcode ws.OpCode, payload []byte) error {
		found = append(found, fmt.Sprintf("%d %s", opcode, payload))
		if opcode == ws.OpClose {
			return errAgreed
		}
		return nil
	}}
	for _, piece := range pieces {
		err := p.parse([]byte(piece))
		if v, ok := errors.AsType[violation](err); ok {
			return found, v.code
		}
		if err != nil {
			return found, 0
		}
		if len(p.kept) >= ws.MaxHeaderSize+maxClientMessage || cap(p.kept) > 3*maxClientMessage || len(p.message) > maxClientMessage {
			t.Fatalf("the parser keeps %d bytes (capacity %d) of a frame, and %d bytes of a message", len(p.kept), cap(p.kept), len(p.message))
		}
	}
	return found, 0
}

func TestParser(t *testing.T) {
	large := strings.Repeat("x", maxClientMessage)
	for _, test := range []struct {
		name string
		sent string
		want []string
		code ws.StatusCode // of the violation
	}{
		{"a text", sent(final|opText, "hello"), []string{"1 hello"}, 0},
		{"an empty text", sent(final|opText, ""), []string{"1 "}, 0},
		{"data", sent(final|opBinary, "\xff"), []string{"2 \xff"}, 0},
		{"texts", sent(final|opText, "a") + sent(final|opText, "b"), []string{"1 a", "1 b"}, 0},
		{"half a frame", sent(final|opText, "hello")[:8], nil, 0},
		{"a text of 126 bytes", sent(final|opText, large[:126]), []string{"1 " + large[:126]}, 0},
		{"the largest text", sent(final|opText, large), []string{"1 " + large}, 0},

		// 5.2
		{"the first reserved bit", sent(final|rsv1|opText, ""), nil, 1002},
		{"the second reserved bit", sent(final|rsv2|opText, ""), nil, 1002},
		{"the third reserved bit", sent(final|rsv3|opText, ""), nil, 1002},
		{"a reserved bit in a ping", sent(final|rsv1|opPing, ""), nil, 1002},
		{"a reserved opcode", sent(final|3, ""), nil, 1002},
		{"the last reserved opcode", sent(final|7, ""), nil, 1002},
		{"a reserved opcode of a control frame", sent(final|11, ""), nil, 1002},
		{"the last opcode", sent(final|15, ""), nil, 1002},
		{"no mask", "\x81\x00", nil, 1002},
		{"no mask, before the payload", "\x81\x05", nil, 1002},
		{"a ping without a mask", "\x89\x00", nil, 1002},
		{"a good frame before a bad one", sent(final|opText, "a") + "\x81\x00" + sent(final|opText, "b"), []string{"1 a"}, 1002},
		// A sender must use the shortest form of a length. A receiver may accept the others.
		{"16 bits of length for less", sentAs(final|opText, []byte{0x80 | 126, 0, 5}, "hello"), []string{"1 hello"}, 0},
		{"64 bits of length for less", sentAs(final|opText, []byte{0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5}, "hello"), []string{"1 hello"}, 0},
		{"a length below zero", sentAs(final|opText, []byte{0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 5}, "hello"), nil, 1002},
		{"the greatest length", sentAs(final|opText, []byte{0x80 | 127, 0x7f, 255, 255, 255, 255, 255, 255, 255}, ""), nil, 1009},
		{"a text that is too large", sent(final|opText, large+"x"), nil, 1009},
		{"the beginning of a text that is too large", sent(final|opText, large+"x")[:8], nil, 1009},

		// 5.4
		{"fragments", sent(opText, "a") + sent(opContinuation, "b") + sent(final|opContinuation, "c"), []string{"1 abc"}, 0},
		{"fragments of data", sent(opBinary, "a") + sent(final|opContinuation, "\xff"), []string{"2 a\xff"}, 0},
		{"empty fragments", sent(opText, "") + sent(opContinuation, "") + sent(final|opContinuation, ""), []string{"1 "}, 0},
		{"a message after fragments", sent(opText, "a") + sent(final|opContinuation, "b") + sent(final|opText, "c"), []string{"1 ab", "1 c"}, 0},
		{"control frames between fragments", sent(opText, "a") + sent(final|opPing, "p") + sent(opContinuation, "b") + sent(final|opPong, "q") + sent(final|opContinuation, "c"), []string{"9 p", "10 q", "1 abc"}, 0},
		{"an end between fragments", sent(opText, "a") + sent(final|opClose, "\x03\xe8") + sent(final|opContinuation, "c"), []string{"8 \x03\xe8"}, 0},
		{"fragments that are too large", sent(opText, large) + sent(final|opContinuation, "x"), nil, 1009},
		{"the largest fragments", sent(opText, large[1:]) + sent(final|opContinuation, "x"), []string{"1 " + large}, 0},
		{"a last fragment without a first", sent(final|opContinuation, "a"), nil, 1002},
		{"a fragment without a first", sent(opContinuation, "a"), nil, 1002},
		{"a message between fragments", sent(opText, "a") + sent(final|opText, "b"), nil, 1002},
		{"a first fragment between fragments", sent(opText, "a") + sent(opBinary, "b"), nil, 1002},

		// 5.5
		{"a ping", sent(final|opPing, ""), []string{"9 "}, 0},
		{"the largest ping", sent(final|opPing, large[:125]), []string{"9 " + large[:125]}, 0},
		{"a ping that is too large", sent(final|opPing, large[:126]), nil, 1002},
		{"a ping in fragments", sent(opPing, "a"), nil, 1002},
		{"a pong that is too large", sent(final|opPong, large[:126]), nil, 1002},
		{"an end in fragments", sent(opClose, ""), nil, 1002},
		{"an end that is too large", sent(final|opClose, "\x03\xe8"+large[:124]), nil, 1002},
		{"an end", sent(final|opClose, ""), []string{"8 "}, 0},
		{"an end with a reason", sent(final|opClose, "\x03\xe8bye"), []string{"8 \x03\xe8bye"}, 0},
		{"an end, and more", sent(final|opClose, "") + sent(final|opText, "a"), []string{"8 "}, 0},
		{"half a close code", sent(final|opClose, "\x03"), nil, 1002},

		// 8.1
		{"a text beyond ASCII", sent(final|opText, "κόσμε"), []string{"1 κόσμε"}, 0},
		{"a character in fragments", sent(opText, "\xce") + sent(final|opContinuation, "\xba"), []string{"1 κ"}, 0},
		{"half a character", sent(final|opText, "\xce"), nil, 1007},
		{"half a character in fragments", sent(opText, "a\xce") + sent(final|opContinuation, "b"), nil, 1007},
		{"a surrogate", sent(final|opText, "\xed\xa0\x80"), nil, 1007},
		{"too many bytes for a character", sent(final|opText, "\xc0\xaf"), nil, 1007},
		{"a reason that is not UTF-8", sent(final|opClose, "\x03\xe8\xff"), nil, 1007},
	} {
		t.Run(test.name, func(t *testing.T) {
			for how, pieces := range map[string][]string{"at once": {test.sent}, "byte by byte": nil} {
				if how != "at once" {
					pieces = nil
					for i := range len(test.sent) {
						pieces = append(pieces, test.sent[i:i+1])
					}
				}
				if found, code := parsed(t, false, pieces...); !slices.Equal(found, test.want) || code != test.code {
					t.Errorf("%s: found %.60q with violation %d, want %.60q with %d", how, found, code, test.want, test.code)
				}
			}
		})
	}
}

// The codes are those of RFC 6455, 7.4, and of the IANA's registry.
func TestCloseCodes(t *testing.T) {
	good := []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999}
	bad := []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535}
	for _, code := range slices.Concat(good, bad) {
		_, violated := parsed(t, false, sent(final|opClose, string(binary.BigEndian.AppendUint16(nil, code))))
		if isBad := violated == ws.StatusProtocolError; isBad != slices.Contains(bad, code) {
			t.Errorf("close code %d: refused %v, want %v", code, isBad, !isBad)
		}
	}
}

// deflated returns the compressed form of a message.
func deflated(t testing.TB, message string) string {
	t.Helper()
	var f deflation
	defer f.free()
	if err := deflate(&f, []byte(message)); err != nil {
		t.Fatal(err)
	}
	return string(f.bytes())
}

// See RFC 7692, 6 and 7.2.
func TestParserWithCompression(t *testing.T) {
	large := strings.Repeat("x", maxClientMessage)
	hello := deflated(t, "hello")
	for _, test := range []struct {
		name string
		sent string
		want []string
		code ws.StatusCode
	}{
		{"a text", sent(final|rsv1|opText, hello), []string{"1 hello"}, 0},
		{"texts", sent(final|rsv1|opText, hello) + sent(final|rsv1|opText, hello), []string{"1 hello", "1 hello"}, 0},
		{"a text that is not compressed", sent(final|opText, "hello") + sent(final|rsv1|opText, hello), []string{"1 hello", "1 hello"}, 0},
		{"a plain text after a compressed one", sent(final|rsv1|opText, hello) + sent(final|opText, "x"), []string{"1 hello", "1 x"}, 0},
		{"the RFC's example", sent(final|rsv1|opText, "\xf2\x48\xcd\xc9\xc9\x07\x00"), []string{"1 Hello"}, 0},
		{"the RFC's example of no compression", sent(final|rsv1|opText, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), []string{"1 Hello"}, 0},
		{"the RFC's example of a last block", sent(final|rsv1|opText, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), []string{"1 Hello"}, 0},
		{"the RFC's example of two blocks", sent(final|rsv1|opText, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), []string{"1 Hello"}, 0},
		{"fragments", sent(rsv1|opText, hello[:3]) + sent(final|opPing, "") + sent(final|opContinuation, hello[3:]), []string{"9 ", "1 hello"}, 0},
		{"the bit in a later fragment", sent(rsv1|opText, hello[:3]) + sent(final|rsv1|opContinuation, hello[3:]), nil, 1002},
		{"the bit in a ping", sent(final|rsv1|opPing, ""), nil, 1002},
		{"another reserved bit", sent(final|rsv2|opText, ""), nil, 1002},
		{"two reserved bits", sent(final|rsv1|rsv3|opText, hello), nil, 1002},
		{"the largest text", sent(final|rsv1|opText, deflated(t, large)), []string{"1 " + large}, 0},
		{"a text that is too large", sent(final|rsv1|opText, deflated(t, large+"x")), nil, 1009},
		{"a text that is far too large", sent(final|rsv1|opText, deflated(t, strings.Repeat(large, 500))), nil, 1009},
		{"bytes that are not compressed", sent(final|rsv1|opText, "\xff\xff\xff"), nil, 1007},
		{"half a compressed text", sent(final|rsv1|opText, deflated(t, large[:600]+"abcdefgh")[:6]), nil, 1007},
		{"a text that is not UTF-8", sent(final|rsv1|opText, deflated(t, "\xff")), nil, 1007},
		{"a good text with the decompressor of a bad one", sent(final|rsv1|opText, hello), []string{"1 hello"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if found, code := parsed(t, true, test.sent); !slices.Equal(found, test.want) || code != test.code {
				t.Errorf("found %.60q with violation %d, want %.60q with %d", found, code, test.want, test.code)
			}
		})
	}
}

// FuzzParser gives a parser the same bytes in other pieces. The parser must find the same messages, and never keep more
// than it may.
func FuzzParser(f *testing.F) {
	hello := deflated(f, "hello")
	for _, seed := range []string{
		sent(final|opText, `{"ack":"x"}`) + sent(final|opPing, "p") + sent(final|opPong, "") + sent(final|opClose, "\x03\xe8bye"),
		sent(opText, "a\xce") + sent(final|opPing, "p") + sent(opContinuation, "\xba") + sent(final|opContinuation, ""),
		sent(rsv1|opText, hello[:2]) + sent(final|opContinuation, hello[2:]) + sent(final|rsv1|opBinary, hello),
		sentAs(final|opText, []byte{0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5}, "hello"),
		"\x81\x05hello",
	} {
		f.Add([]byte(seed), []byte{1, 2, 3}, true)
		f.Add([]byte(seed), []byte{200, 1}, false)
	}
	f.Fuzz(func(t *testing.T, all, sizes []byte, compression bool) {
		found, code := parsed(t, compression, string(all))
		var pieces []string
		for rest, i := all, 0; len(rest) > 0; i++ {
			size := len(rest)
			if len(sizes) > 0 {
				size = min(size, 1+int(sizes[i%len(sizes)]))
			}
			pieces, rest = append(pieces, string(rest[:size])), rest[size:]
		}
		again, codeAgain := parsed(t, compression, pieces...)
		if !slices.Equal(found, again) || code != codeAgain {
			t.Errorf("found %q with violation %d at once, and %q with %d in pieces", found, code, again, codeAgain)
		}
		for _, s := range found {
			if _, payload, _ := bytes.Cut([]byte(s), []byte(" ")); len(payload) > maxClientMessage {
				t.Errorf("a message has %d bytes, want at most %d", len(payload), maxClientMessage)
			}
		}
	})
}

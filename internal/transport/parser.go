package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
)

// maxClientMessage is the largest message, in bytes, that a client may send, compressed or not.
const maxClientMessage = 4 << 10

// A parser finds messages and control frames in what a client sends (RFC 6455, 5). The bytes may come in any pieces. The
// parser keeps the beginning of a frame until the rest has come, and likewise the beginning of a fragmented message. Each
// is at most as long as a message may be.
type parser struct {
	compression bool // both sides have agreed on permessage-deflate

	// handle is called with each message and each control frame. The opcode of a message is that of text or binary data.
	// The payload is valid until handle returns.
	handle func(opcode ws.OpCode, payload []byte) error

	kept       []byte               // the beginning of a frame
	fragmented bool                 // more fragments of the message will follow
	message    []byte               // the fragments so far
	opcode     ws.OpCode            // of the message
	deflated   wsflate.MessageState // of the message
}

// A violation says why a connection must fail (RFC 6455, 7.1.7).
type violation struct {
	code   ws.StatusCode
	reason string
}

func (v violation) Error() string { return fmt.Sprintf("%d %s", v.code, v.reason) }

// parse calls handle for each message and control frame that p completes. It stops at the first error, which comes from
// handle or is a [violation]. After an error, parse must not be called again. It changes p.
func (r *parser) parse(p []byte) error {
	rest := p
	if r.kept != nil {
		r.kept = append(r.kept, p...)
		rest = r.kept
	}
	whole := len(rest)
	for {
		header, payload, size, err := r.next(rest)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		rest = rest[size:]
		ws.Cipher(payload, header.Mask, 0)
		if err := r.frame(header, payload); err != nil {
			return err
		}
	}
	switch {
	case len(rest) == 0:
		r.kept = nil
	case r.kept == nil || len(rest) < whole:
		r.kept = bytes.Clone(rest)
	}
	return nil
}

// next returns the frame that p begins with, and the frame's size with its header. The size is 0 if the frame is not
// complete. If the frame is not allowed, next fails without waiting for the rest.
func (r *parser) next(p []byte) (h ws.Header, payload []byte, size int, err error) {
	in := bytes.NewReader(p)
	h, err = ws.ReadHeaderBuffer(in, make([]byte, ws.MaxHeaderSize))
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return h, nil, 0, nil
	case err != nil:
		return h, nil, 0, violation{ws.StatusProtocolError, err.Error()}
	}
	if h, err = r.check(h); err != nil {
		return h, nil, 0, err
	}
	begin := len(p) - in.Len()
	if int64(in.Len()) < h.Length {
		return h, nil, 0, nil
	}
	size = begin + int(h.Length)
	return h, p[begin:size], size, nil
}

// check checks a frame's header. It returns the header without the bit that marks a compressed message.
func (r *parser) check(h ws.Header) (ws.Header, error) {
	var err error
	if r.compression {
		h, err = r.deflated.UnsetBits(h)
	}
	state := ws.StateServerSide
	if r.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	if err == nil {
		err = ws.CheckHeader(h, state)
	}
	switch {
	case err != nil:
		return h, violation{ws.StatusProtocolError, err.Error()}
	case !h.OpCode.IsControl() && h.Length > int64(maxClientMessage-len(r.message)):
		return h, errTooLarge
	}
	return h, nil
}

var errTooLarge = violation{ws.StatusMessageTooBig, fmt.Sprintf("a message may have %d bytes", maxClientMessage)}

// frame handles a complete frame.
func (r *parser) frame(h ws.Header, payload []byte) error {
	if h.OpCode.IsControl() {
		if h.OpCode == ws.OpClose {
			if err := checkClose(payload); err != nil {
				return err
			}
		}
		return r.handle(h.OpCode, payload)
	}
	if !r.fragmented {
		r.opcode = h.OpCode
	}
	if r.fragmented || !h.Fin {
		r.message = append(r.message, payload...)
		if r.fragmented = !h.Fin; r.fragmented {
			return nil
		}
		payload, r.message = r.message, nil
	}
	if r.deflated.IsCompressed() {
		var err error
		if payload, err = inflate(payload); err != nil {
			return err
		}
	}
	if r.opcode == ws.OpText && !utf8.Valid(payload) {
		return violation{ws.StatusInvalidFramePayloadData, "the text is not UTF-8"}
	}
	return r.handle(r.opcode, payload)
}

// checkClose checks the payload of a close frame (RFC 6455, 5.5.1 and 7.4).
func checkClose(payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 {
		return violation{ws.StatusProtocolError, "half a close code"}
	}
	switch code := ws.StatusCode(binary.BigEndian.Uint16(payload)); {
	case code == ws.StatusNoMeaningYet, code == ws.StatusNoStatusRcvd, code == ws.StatusAbnormalClosure,
		code < ws.StatusNormalClosure, code > maxRegisteredClose && code < ws.StatusRangeApplication.Min, code > ws.StatusRangePrivate.Max:
		return violation{ws.StatusProtocolError, fmt.Sprintf("%d is not a close code", code)}
	case !utf8.Valid(payload[2:]):
		return violation{ws.StatusInvalidFramePayloadData, "the reason is not UTF-8"}
	}
	return nil
}

// maxRegisteredClose is the highest close code that is reserved for the protocol, registered with the IANA, and may be
// sent.
const maxRegisteredClose = 1014

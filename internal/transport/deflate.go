package transport

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"sync"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
)

// agreeOnCompression looks for an offer of permessage-deflate that can be accepted, and returns the extension as the
// response has it, or nothing. Each message is compressed for itself (RFC 7692, 7.1.1): to compress with what was sent
// before would take a megabyte for each connection.
func agreeOnCompression(offers []string) string {
	extension := wsflate.Extension{Parameters: wsflate.DefaultParameters}
	for _, line := range offers {
		options, ok := httphead.ParseOptions([]byte(line), nil)
		if !ok {
			return ""
		}
		for _, option := range options {
			accepted, err := extension.Negotiate(option)
			if err != nil || accepted.Size() == 0 {
				continue // RFC 7692, 7.1: another offer may be good
			}
			var text bytes.Buffer
			if _, err := httphead.WriteOptions(&text, []httphead.Option{accepted}); err != nil {
				return ""
			}
			return text.String()
		}
	}
	return ""
}

// minDeflated is the smallest message, in bytes, that is compressed. A smaller one seldom becomes smaller by itself.
const minDeflated = 512

// Compressing takes more than a megabyte, and its opposite 40 KB, so connections share what they need for it.
var (
	deflaters = sync.Pool{New: func() any {
		return wsflate.NewWriter(io.Discard, func(w io.Writer) wsflate.Compressor {
			c, _ := flate.NewWriter(w, flate.BestSpeed) // fails for other levels only
			return c
		})
	}}
	inflaters = sync.Pool{New: func() any {
		return wsflate.NewReader(bytes.NewReader(nil), func(r io.Reader) wsflate.Decompressor { return inflater{flate.NewReader(r)} })
	}}
)

// An inflater can be used again by [wsflate.Reader].
type inflater struct{ io.ReadCloser }

// Reset implements [wsflate.ReadResetter].
func (i inflater) Reset(r io.Reader) {
	_ = i.ReadCloser.(flate.Resetter).Reset(r, nil) // fails never
}

// maxDeflated is how large a message may be, in bytes, when it is compressed. Each connection has its own, for as long as its
// client may take nothing, but one that is not compressed is shared by all.
const maxDeflated = 64 << 10

var errDeflatedTooLarge = errors.New("the message is too large when it is compressed")

// A deflation is what a message becomes.
type deflation struct{ frame }

// Write implements [io.Writer].
func (d *deflation) Write(p []byte) (int, error) {
	if len(d.bytes())+len(p) > maxDeflated {
		return 0, errDeflatedTooLarge
	}
	return d.frame.Write(p)
}

// deflate compresses a message. It gives up as soon as it turns out to be too large.
func deflate(to *deflation, p []byte) error {
	d := deflaters.Get().(*wsflate.Writer)
	defer deflaters.Put(d)
	defer d.Reset(io.Discard)
	d.Reset(to)
	if _, err := d.Write(p); err != nil {
		return err
	}
	return d.Flush()
}

// inflate returns a message of the client's that was compressed.
func inflate(p []byte) ([]byte, error) {
	i := inflaters.Get().(*wsflate.Reader)
	defer inflaters.Put(i)
	i.Reset(bytes.NewReader(p))
	message, err := io.ReadAll(io.LimitReader(i, maxClientMessage+1))
	switch {
	case len(message) > maxClientMessage:
		return nil, errTooLarge
	case err != nil:
		return nil, violation{ws.StatusInvalidFramePayloadData, "the message cannot be decompressed"}
	}
	return message, nil
}

package transport

import (
	"bytes"
	"compress/flate"
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

// deflate appends a message to f, compressed.
func deflate(f *frame, p []byte) error {
	d := deflaters.Get().(*wsflate.Writer)
	defer deflaters.Put(d)
	defer d.Reset(io.Discard)
	d.Reset(f)
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

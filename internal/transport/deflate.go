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

// agreeOnCompression looks for an acceptable offer of permessage-deflate. It returns the extension for the response's
// header, or an empty string. Each message is compressed by itself (RFC 7692, 7.1.1). Compression with the context of
// earlier messages would need a megabyte for each connection.
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
				continue // another offer may be acceptable (RFC 7692, 7.1)
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

// minDeflated is the size, in bytes, of the smallest message that is compressed. Compression by itself seldom makes a
// smaller message any smaller.
const minDeflated = 512

// Compression takes more than a megabyte, and decompression takes 40 KB. So connections share the memory for them.
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

// An inflater lets [wsflate.Reader] use a decompressor again.
type inflater struct{ io.ReadCloser }

// Reset implements [wsflate.ReadResetter].
func (i inflater) Reset(r io.Reader) {
	_ = i.ReadCloser.(flate.Resetter).Reset(r, nil) // never fails
}

// maxDeflated is the largest size of a compressed message, in bytes. Each connection holds its own compressed copy for
// as long as a client may take nothing. All connections share a message that is not compressed.
const maxDeflated = 64 << 10

var errDeflatedTooLarge = errors.New("the compressed message is too large")

// A deflation receives the compressed form of a message.
type deflation struct{ frame }

// Write implements [io.Writer].
func (d *deflation) Write(p []byte) (int, error) {
	if len(d.bytes())+len(p) > maxDeflated {
		return 0, errDeflatedTooLarge
	}
	return d.frame.Write(p)
}

// deflate compresses a message. It gives up with errDeflatedTooLarge as soon as the compressed message is too large.
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

// inflate decompresses a message from the client.
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

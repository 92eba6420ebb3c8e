package load

import (
	"bytes"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// window is the HTTP/2 flow-control window in bytes. It is so large that no stream of a benchmark waits for it.
const window = 1 << 30

// StreamsH2 opens an HTTP/2 connection without TLS, with prior knowledge (RFC 9113, 3.3). It opens a stream for each
// path and waits for the headers of all of them. It counts their messages in the background until the connection is
// closed.
func StreamsH2(address string, paths []string, counter *Counter) (net.Conn, error) {
	conn, err := dial(address)
	if err != nil {
		return nil, err
	}
	if err := openH2(conn, paths, counter); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func openH2(conn net.Conn, paths []string, counter *Counter) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	// One write sends all the first frames.
	var begin bytes.Buffer
	begin.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&begin, conn)
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		return err
	}
	if err := framer.WriteWindowUpdate(0, window); err != nil {
		return err
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i, path := range paths {
		block.Reset()
		for _, field := range [][2]string{
			{":method", "GET"}, {":scheme", "http"}, {":authority", "localhost"}, {":path", path},
		} {
			if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
				return err
			}
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		}); err != nil {
			return err
		}
	}
	if _, err := conn.Write(begin.Bytes()); err != nil {
		return err
	}
	s := h2Streams{framer: http2.NewFramer(conn, conn), counter: counter}
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	for s.open < len(paths) {
		if err := s.next(); err != nil {
			return err
		}
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	go func() {
		for s.next() == nil {
		}
	}()
	return nil
}

type h2Streams struct {
	framer  *http2.Framer
	counter *Counter
	open    int // the streams whose header has arrived
}

// next reads and handles the next frame.
func (s *h2Streams) next() error {
	frame, err := s.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		if status := f.PseudoValue("status"); status != "200" {
			return fmt.Errorf("a stream was refused with status %s", status)
		}
		s.open++
	case *http2.DataFrame:
		s.counter.add(f.Data())
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return s.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return s.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return fmt.Errorf("the server ended a stream: %v", f)
	}
	return nil
}

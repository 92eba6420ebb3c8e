package handover

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A pipe accepts deadlines after the other side has closed, as sockets do.
type pipe struct{ net.Conn }

func (p pipe) SetReadDeadline(t time.Time) error {
	if err := p.Conn.SetReadDeadline(t); !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return nil
}

func TestReadHeadReadsUpToTheEndOfTheHeader(t *testing.T) {
	const idle, header = time.Minute, 10 * time.Second
	for _, test := range []struct {
		name, early string
		pieces      []string // the client sends one each second
		ends        bool     // the client goes after the last piece
		want        string
		took        time.Duration
		err         error
		then        error // from the next Read, if it is known
	}{
		{name: "already read", early: "GET / HTTP/1.1\r\n\r\nrest", want: "GET / HTTP/1.1\r\n\r\nrest"},
		{name: "in pieces", pieces: []string{"G", "ET / HTTP/1.1\r\nHost", ": x\r\n\r", "\nrest"}, want: "GET / HTTP/1.1\r\nHost: x\r\n\r\nrest", took: 4 * time.Second},
		{name: "partly read", early: "GET / HT", pieces: []string{"TP/1.1\r\n\r\n"}, want: "GET / HTTP/1.1\r\n\r\n", took: time.Second},
		{name: "after empty lines", pieces: []string{"\r\n\r\n", "GET / HTTP/1.1\n\n"}, want: "GET / HTTP/1.1\n\n", took: 2 * time.Second},
		{name: "unfinished", pieces: []string{"GET /"}, ends: true, want: "GET /", took: time.Second},
		{name: "with a long header", pieces: []string{"G", strings.Repeat("x", maxHead-1)}, want: "G" + strings.Repeat("x", maxHead-1), took: 2 * time.Second},
		{name: "with a longer header", early: strings.Repeat("x", maxHead+1), want: strings.Repeat("x", maxHead+1)},
		{name: "that never comes", took: idle, err: os.ErrDeadlineExceeded},
		{name: "whose client goes", ends: true, err: io.EOF},
		{name: "that begins too late", pieces: []string{"GET"}, took: idle, err: os.ErrDeadlineExceeded},
		{name: "that takes too long", pieces: []string{"GET", " /"}, want: "GET /", took: 2*time.Second + header, then: os.ErrDeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer ours.Close()
				defer theirs.Close()
				go func() {
					for _, piece := range test.pieces {
						time.Sleep(time.Second)
						_, _ = io.WriteString(theirs, piece)
					}
					if test.ends {
						theirs.Close()
					}
				}()
				began := time.Now()
				c := prefixed(pipe{ours}, []byte(test.early))
				if err := c.readHead(idle, header); !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				if test.err != nil {
					return
				}
				got := make([]byte, len(test.want))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != test.want {
					t.Errorf("the server read %q, %v, want %q", got, err, test.want)
				}
				if test.then != nil {
					if _, err := c.Read(got); !errors.Is(err, test.then) {
						t.Errorf("the next read fails with %v, want %v", err, test.then)
					}
				}
				if !c.used.Load() {
					t.Error("early is not empty after the request was read")
				}
			})
		})
	}
}

package direct

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// A note is what is noted of a connection that goes back to net/http.
type note struct {
	hijackAfter int     // how many writes it takes until the connection is hijacked again
	sample      *sample // the connection's next request; nil if it is none
}

// A sample is a write that could be served directly. It takes the long way, through net/http and all handlers of its site,
// to see whether they make the same of it. So if package direct misjudges requests or sites, counters and the log show it,
// although nobody compares replies. The connection of the sample is not shared until the sample is over.
type sample struct {
	site     *Site
	producer string
	key      string
	message  *broker.Message // what would have been published
	reply    []byte          // the beginning of the reply that would have been sent
	served   int             // what the connection had served before
	over     bool
}

// newSample returns a sample that would have been served on a connection.
func (c *producerConn) newSample(producer, key string, m *broker.Message) *sample {
	return &sample{site: c.site, producer: producer, key: key, message: m, reply: c.reply.beforeDate, served: c.served}
}

// untilSample returns after how many writes a connection's next one is a sample. The number is random, so that no client's
// habits decide what is sampled.
func (s *Site) untilSample() int {
	return 1 + rand.IntN(2*s.SampleEvery) //nolint:gosec // not a secret
}

// sampleOf returns the sample that a connection is noted to have, or nil. A connection that goes back during a reload may come to
// the server of another configuration, and what becomes of the request there says nothing about this site. Neither does what
// becomes of it here while the process exits: replies say that the connection ends, or there are none.
func (s *Site) sampleOf(noted any) *sample {
	n, _ := noted.(*note)
	switch {
	case n == nil, n.sample == nil, n.sample.site != s, n.sample.over:
		return nil
	case s.Over():
		n.sample.over = true
		return nil
	}
	return n.sample
}

// accepted compares a sample with what the handlers have made of it and are about to reply. It reports whether both are the
// same.
func (s *sample) accepted(w http.ResponseWriter, r *http.Request, producer string, m *broker.Message) bool {
	reply, ok := newReply(w.Header())
	switch {
	case producer != s.producer:
		return s.end("another channel")
	case m.StreamID() != s.message.StreamID(), !bytes.Equal(m.Body(), s.message.Body()), m.Merge() != s.message.Merge():
		return s.end("another message")
	case r.Header.Get("Idempotency-Key") != s.key:
		return s.end("another idempotency key")
	case !ok, !bytes.Equal(reply.beforeDate, s.reply):
		return s.end("another header of the reply")
	}
	return s.end("")
}

// Refused compares a request with what package direct would have made of it, if the request is a sample. The handler calls
// it when it refuses a request. A Broker may refuse a sample, since package direct leaves that to net/http too.
func (s *Site) Refused(r *http.Request, err error) {
	if sample := s.sampleOfRequest(r); sample != nil {
		difference := ""
		if e, ok := errors.AsType[*httpjson.Error](err); ok {
			difference = "refused as " + e.Code
		} else if errors.Is(err, broker.ErrMessage) {
			difference = "refused: " + err.Error()
		}
		sample.end(difference)
	}
}

// Panicked ends the sample that a request is, if any: its handler has panicked, and so says nothing of direct writes.
func (s *Site) Panicked(r *http.Request) {
	if sample := s.sampleOfRequest(r); sample != nil {
		sample.end("")
	}
}

// sampleOfRequest returns the sample that a request is, or nil.
func (s *Site) sampleOfRequest(r *http.Request) *sample {
	client := conn.ClientOf(r)
	if client == nil || r.ProtoMajor != 1 {
		return nil
	}
	return s.sampleOf(client.Note)
}

// Ended notes that a request has ended, or a connection. If the request is a sample that has not reached its handler, it is
// one that package direct misjudges. [http.Server.ConnState] must call Ended with each state that it gets.
func (s *Site) Ended(c net.Conn, state http.ConnState) {
	if state != http.StateIdle && state != http.StateClosed {
		return
	}
	if sample := s.sampleOf(handover.Note(conn.Bare(c))); sample != nil {
		sample.end("it did not reach the handler")
	}
}

// end ends a sample. If there is a difference to net/http, all writes of the site stay with net/http from now on. It reports
// whether there is none.
func (s *sample) end(difference string) (same bool) {
	s.over = true
	s.site.Samples.Inc()
	if difference != "" {
		s.site.Mismatches.Inc()
		s.site.distrusted.Store(true)
		s.site.Logger.Error("net/http and the other handlers make something else of a write than direct writes do: "+
			"all writes to this site stay with net/http until the configuration is reloaded; please report this",
			zap.String("difference", difference), zap.String("address", broker.RedactAddress(s.producer)))
	}
	*s = sample{site: s.site, over: true, served: s.served}
	return difference == ""
}

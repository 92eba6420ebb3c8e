package megaphone_test

import (
	"io"
	"net/http"
	"testing"
	"time"
)

func TestAConfigurationThatIsReplacedServesNoMoreDirectWrites(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	idle, inTheMiddle := s.direct(c), s.direct(c)
	request := writeRequest(c.ProducerAddress, `"in the middle"`)
	inTheMiddle.send(request + request[:len(request)-3]) // which are read at once
	inTheMiddle.wants(http.StatusCreated)
	began := time.Now()
	if err := s.load("megaphone {\nheartbeat 14s\n}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	// It may send more before it knows, but that is not served by the old configuration.
	inTheMiddle.send(request[len(request)-3:] + request) // within a second, or it is too slow to be served
	if last := inTheMiddle.wants(http.StatusCreated); !last {
		t.Error("the client is not told that the connection ends")
	}
	idle.wantsEnd() // as by net/http
	if _, err := inTheMiddle.replies.ReadByte(); err == nil {
		t.Error("it serves more than one request")
	}
	s.eventually(func() bool { return !s.isDirect() })
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	s.direct(c)
	bodies := append(numbered(0, enough), numbered(0, enough)...)
	bodies = append(bodies, `"in the middle"`, `"in the middle"`)
	s.read("/read/" + c.ConsumerAddress).wants(append(bodies, numbered(0, enough)...)...)
}

func TestDirectWritesGoOnUnderTheNextConfiguration(t *testing.T) {
	wrapper := "servers {\nlistener_wrappers {\nmegaphone\n}\n}\n"
	s := serve(t, wrapper, "megaphone")
	c := s.create()
	idle, inTheMiddle := s.direct(c), s.direct(c)
	request := writeRequest(c.ProducerAddress, `"in the middle"`)
	inTheMiddle.send(request + request[:len(request)-3])
	inTheMiddle.wants(http.StatusCreated)
	if err := s.load(wrapper+"megaphone {\nbuffer 1000\n}", "@writes path /write/*\nheader @writes X-New yes\nmegaphone"); err != nil {
		t.Fatal(err)
	}
	// The request that had begun to come, and those that come with its end.
	inTheMiddle.send(request[len(request)-3:] + request + request)
	for i, want := range []string{"", "yes", "yes"} {
		response, err := http.ReadResponse(inTheMiddle.replies, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		if got := response.Header.Get("X-New"); got != want || response.StatusCode != http.StatusCreated || response.Close {
			t.Errorf("reply %d: %s, X-New: %q, close: %v", i, response.Status, got, response.Close)
		}
	}
	s.eventually(func() bool { return !s.isDirect() })
	idle.writes(c, numbered(0, 2*enough)...)
	if s.isDirect() {
		t.Error("the new configuration serves directly, though another handler is there")
	}
}

// A write that is being served when the configuration is replaced does not take the connection over any more.
func TestAWriteDuringAReloadTakesNothingOver(t *testing.T) {
	s := serve(t, "", "megaphone")
	c, client := s.create(), s.rawClient()
	idle := s.direct(c)
	client.writes(c, numbered(0, enough-1)...)
	request := writeRequest(c.ProducerAddress, "7")
	client.send(request[:len(request)-1])
	s.eventually(func() bool { return s.runs("ReadBody(") })
	loaded := make(chan error, 1)
	go func() { loaded <- s.load("megaphone {\nheartbeat 14s\n}", "megaphone") }()
	idle.wantsEnd() // the old configuration's server shuts down
	client.send(request[len(request)-1:])
	if last := client.wants(http.StatusCreated); !last {
		t.Error("the client is not told that the connection ends")
	}
	if err := <-loaded; err != nil {
		t.Error(err)
	}
}

func TestARequestThatIsNotCompleteWhenTheConfigurationIsReplacedDelaysNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	client := s.direct(c)
	request := writeRequest(c.ProducerAddress, "1")
	client.send(request + request[:20]) // which are read at once
	client.wants(http.StatusCreated)
	if err := s.load("", "respond 204"); err != nil {
		t.Fatal(err)
	}
	client.wantsEnd()
	s.eventually(func() bool { return !s.runs("(*producerConn).serve(") })
}

package megaphone_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone"
)

func TestAReplacedConfigurationServesNoMoreDirectWrites(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	idle, inTheMiddle := s.direct(c), s.direct(c)
	request := writeRequest(c.ProducerAddress, `"in the middle"`)
	inTheMiddle.send(request + request[:len(request)-3]) // the server reads them at once
	inTheMiddle.wants(http.StatusCreated)
	began := time.Now()
	s.reload("megaphone {\nheartbeat 14s\n}", "megaphone")
	// The client does not know of the reload yet, so it sends the rest of the request and another one. The old configuration
	// serves the first, because its rest arrives within a second, but not the second.
	inTheMiddle.send(request[len(request)-3:] + request)
	if last := inTheMiddle.wants(http.StatusCreated); !last {
		t.Error("the reply does not say that the connection ends")
	}
	idle.wantsEnd() // as with net/http
	if _, err := inTheMiddle.replies.ReadByte(); err == nil {
		t.Error("the old configuration serves more than one request")
	}
	s.eventually(func() bool { return !s.isDirect() })
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("direct writes ended after %v, want less than 4s", took)
	}
	s.direct(c)
	bodies := append(numbered(0, enough), numbered(0, enough)...)
	bodies = append(bodies, `"in the middle"`, `"in the middle"`)
	s.read(c).wants(append(bodies, numbered(0, enough)...)...)
}

func TestConnectionsWithDirectWritesContinueUnderTheNextConfiguration(t *testing.T) {
	wrapper := "servers {\nlistener_wrappers {\nmegaphone\n}\n}\n"
	s := serve(t, wrapper, "megaphone")
	c := s.create()
	idle, inTheMiddle := s.direct(c), s.direct(c)
	request := writeRequest(c.ProducerAddress, `"in the middle"`)
	inTheMiddle.send(request + request[:len(request)-3])
	inTheMiddle.wants(http.StatusCreated)
	s.reload(wrapper+"megaphone {\nbuffer 1000\n}", "@writes path /write/*\nheader @writes X-New yes\nmegaphone")
	// The old configuration serves the request that had begun to arrive. The new one serves those after it.
	inTheMiddle.send(request[len(request)-3:] + request + request)
	for i, want := range []string{"", "yes", "yes"} {
		response, err := http.ReadResponse(inTheMiddle.replies, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		if got := response.Header.Get("X-New"); got != want || response.StatusCode != http.StatusCreated || response.Close {
			t.Errorf("reply %d: %s, X-New: %q, close: %v; want X-New: %q", i, response.Status, got, response.Close, want)
		}
	}
	s.eventually(func() bool { return !s.isDirect() })
	idle.writeAll(c, numbered(0, 2*enough)...)
	if s.isDirect() {
		t.Error("the new configuration serves writes directly, but another handler comes before Megaphone")
	}
}

// TestAWriteDuringAReloadDoesNotHijack checks a write that is being served while the configuration is replaced. Without
// the reload, the write would hijack its connection.
func TestAWriteDuringAReloadDoesNotHijack(t *testing.T) {
	s := serve(t, "", "megaphone")
	c, client := s.create(), s.rawClient()
	idle := s.direct(c)
	client.writeAll(c, numbered(0, enough-1)...)
	request := writeRequest(c.ProducerAddress, "7")
	client.send(request[:len(request)-1])
	s.eventually(func() bool { return running(t, "/internal/httpjson.ReadBody") > 0 })
	loaded := make(chan error, 1)
	go func() { loaded <- s.load("megaphone {\nheartbeat 14s\n}", "megaphone") }()
	idle.wantsEnd() // the server of the old configuration shuts down
	client.send(request[len(request)-1:])
	if last := client.wants(http.StatusCreated); !last {
		t.Error("the reply does not say that the connection ends")
	}
	if err := <-loaded; err != nil {
		t.Error(err)
	}
}

func TestAnIncompleteDirectWriteDoesNotDelayAReload(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	client := s.direct(c)
	request := writeRequest(c.ProducerAddress, "1")
	client.send(request + request[:20]) // the server reads them at once
	client.wants(http.StatusCreated)
	s.reload("", "respond 204")
	client.wantsEnd()
	s.eventually(func() bool { return running(t, "/internal/direct.(*producerConn).serve") == 0 })
}

// TestSamplesOfDirectWritesTakeTheLongWay: the connection of a sample is served directly again right after it, and the
// client notices nothing.
func TestSamplesOfDirectWritesTakeTheLongWay(t *testing.T) {
	for name, settings := range map[string]string{"without the listener wrapper": "", "with the listener wrapper": "servers {\nlistener_wrappers {\nmegaphone\n}\n}\n"} {
		t.Run(name, func(t *testing.T) {
			megaphone.SampleDirectWrites(t, 5)
			s := serve(t, settings+"megaphone {\nbuffer 1000\n}", "megaphone")
			c := s.create()
			s.direct(c).writeAll(c, numbered(enough, 200)...)
			metrics := s.metrics()
			if n := metrics["caddy_megaphone_direct_samples_total{}"]; n < 20 || metrics["caddy_megaphone_direct_mismatches_total{}"] > 0 {
				t.Errorf("%v samples, %v of them differ", n, metrics["caddy_megaphone_direct_mismatches_total{}"])
			}
			s.eventually(s.isDirect)
			s.read(c).wants(numbered(0, 200)...)
		})
	}
}

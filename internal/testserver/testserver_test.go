package testserver

import (
	"io"
	"net/http"
	"testing"
)

func TestServer(t *testing.T) {
	s := New(t)
	site := func(text string) string {
		return "http:// {\nbind unix/" + s.Socket("site") + "\nrespond " + text + "\n}"
	}
	s.Start("", site("one"))
	client := UnixClient(t, s.Socket("site"))
	serves := func(text string) bool {
		response, err := client.Get("http://localhost/")
		if err != nil { // possible when the old configuration's server reads the request while it shuts down
			t.Log(err)
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK && string(body) == text
	}
	if !serves("one") {
		t.Error("the site does not serve its first text")
	}
	if err := s.Reload("", site("two")); err != nil {
		t.Error(err)
	}
	s.Await("the new configuration serves", func() bool { return serves("two") })
	if err := s.Reload("unknown", ""); err == nil {
		t.Error("the server loaded an invalid configuration")
	}
	s.Stop()
}

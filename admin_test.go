package megaphone_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// An adminServer is a server whose admin API is reachable.
type adminServer struct {
	*server

	admin *http.Client
}

// serveAdmin is like serve, but with an admin endpoint.
func serveAdmin(t *testing.T, settings, site string) *adminServer {
	t.Helper()
	s := &adminServer{server: serve(t, settings, site)}
	socket := s.socket + ".admin"
	s.admin = testserver.UnixClient(t, socket)
	t.Cleanup(func() {
		// Stopping Caddy does not stop its admin endpoint. A configuration without one does.
		if err := s.load("", "respond ok"); err != nil {
			t.Error(err)
		}
	})
	s.reload(settings, site)
	return s
}

// reload replaces the configuration, which must succeed. The admin endpoint stays.
func (s *adminServer) reload(settings, site string) {
	s.Helper()
	caddyfile := strings.Replace(s.caddyfile(settings, site), "admin off", "admin unix/"+s.socket+".admin", 1)
	defer s.client.CloseIdleConnections() // as in load
	defer s.admin.CloseIdleConnections()
	if err := caddy.Load(adapt(s.T, caddyfile), true); err != nil {
		s.Fatal(err)
	}
	s.awaitServers(1)
}

// call sends a request to the admin API. It decodes the reply into v, and returns the status.
func (s *adminServer) call(method, path, body string, v any) int {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, "http://localhost/megaphone/"+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	response, err := s.admin.Do(r)
	for isDropped(err) { // as in open: a reload replaces the admin endpoint too
		r.Body, _ = r.GetBody() // never fails for the reader of a string
		response, err = s.admin.Do(r)
	}
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	if contentType := response.Header.Get("Content-Type"); contentType != "application/json" {
		s.Errorf("%s %s: content type %q", method, path, contentType)
	}
	if err := json.NewDecoder(response.Body).Decode(v); err != nil {
		s.Fatal(err)
	}
	return response.StatusCode
}

// fails sends a request to the admin API that must fail with this status. It returns the text of the error.
func (s *adminServer) fails(status int, method, path, body string) string {
	s.Helper()
	var e struct{ Error string }
	if got := s.call(method, path, body, &e); got != status || e.Error == "" || goWords.MatchString(e.Error) {
		s.Errorf("%s %s: %d %q, want %d", method, path, got, e.Error, status)
	}
	return e.Error
}

// A channelInfo is a channel as the admin API shows it.
type channelInfo struct {
	ID, Agent, Producer, Consumer string
	Connected                     bool
	Pending, InFlight             int
	Created                       time.Time
	LastRead, Expires             *time.Time
	Messages                      []struct {
		InFlight bool
		Message  message
	}
	MoreMessages bool
}

// A channelPage is a page of the admin API's list of channels.
type channelPage struct {
	Channels []channelInfo
	Next     string
}

func TestAdminListsChannels(t *testing.T) {
	s := serveAdmin(t, "", "megaphone")
	c := s.create()
	s.write(c, "1")
	for range 4 {
		s.create()
	}
	var all []channelInfo
	for query := "channels?limit=2"; ; {
		var p channelPage
		if status := s.call(http.MethodGet, query, "", &p); status != http.StatusOK || len(p.Channels) > 2 {
			t.Fatalf("%d %+v", status, p)
		}
		all = append(all, p.Channels...)
		if p.Next == "" {
			break
		}
		query = "channels?limit=2&cursor=" + p.Next
	}
	if len(all) != 5 {
		t.Fatalf("listed %+v", all)
	}
	var p channelPage
	if s.call(http.MethodGet, "channels?min_pending=1&agent=main&connected=false&min_age=0s", "", &p); len(p.Channels) != 1 {
		t.Fatalf("listed %+v", p)
	}
	got := p.Channels[0]
	if got.Agent != "main" || got.Producer != c.ProducerAddress[:9]+"…" || got.Consumer != c.ConsumerAddress[:9]+"…" ||
		got.Pending != 1 || got.Connected || got.LastRead != nil || got.Expires == nil || got.Created.IsZero() {
		t.Errorf("listed %+v", got)
	}
	if s.call(http.MethodGet, "channels?connected=true", "", &p); len(p.Channels) != 0 {
		t.Errorf("listed %+v", p)
	}
}

func TestAdminShowsAndDeletesChannels(t *testing.T) {
	s := serveAdmin(t, "", "megaphone")
	a, b, c := s.create(), s.create(), s.create()
	lookup := func(addresses ...string) (found struct {
		Channels []channelInfo
		NotFound []string
	},
	) {
		body, _ := json.Marshal(map[string]any{"channels": addresses})
		if status := s.call(http.MethodPost, "lookup", string(body), &found); status != http.StatusOK {
			t.Fatal(status)
		}
		return found
	}
	found := lookup(a.ProducerAddress, "main.unknown")
	if len(found.Channels) != 1 || len(found.NotFound) != 1 || found.NotFound[0] != "main.unknown" {
		t.Fatalf("lookup found %+v", found)
	}
	id := found.Channels[0].ID
	if again := lookup(a.ConsumerAddress, id); len(again.Channels) != 2 || again.Channels[0].ID != id || again.Channels[1].ID != id {
		t.Errorf("lookup found %+v", again)
	}
	read := s.read(a)
	var shown channelInfo
	if status := s.call(http.MethodGet, "channels/"+id, "", &shown); status != http.StatusOK || !shown.Connected || shown.Expires != nil || shown.LastRead == nil {
		t.Errorf("%d %+v", status, shown)
	}
	var deleted struct {
		Deleted  int
		NotFound []string
	}
	if status := s.call(http.MethodDelete, "channels/"+id, "", &deleted); status != http.StatusOK || deleted.Deleted != 1 {
		t.Errorf("%d %+v", status, deleted)
	}
	read.ends()
	s.fails(http.StatusNotFound, http.MethodGet, "channels/"+id, "")
	s.fails(http.StatusNotFound, http.MethodDelete, "channels/"+id, "")

	body := fmt.Sprintf(`{"channels":[%q,%q,%q,%q]}`, b.ConsumerAddress, b.ConsumerAddress, c.ProducerAddress, id)
	if status := s.call(http.MethodDelete, "channels", body, &deleted); status != http.StatusOK || deleted.Deleted != 2 || len(deleted.NotFound) != 1 || deleted.NotFound[0] != id {
		t.Errorf("%d %+v", status, deleted)
	}
	s.tryWrite(b, "1").wantError(t, 404, "NOT_FOUND")
}

func TestAdminShowsMessagesOnlyIfConfigured(t *testing.T) {
	s := serveAdmin(t, "", "megaphone")
	c := s.create()
	s.write(c, `"secret"`)
	s.poll(c)
	s.write(c, "2")
	var p channelPage
	s.call(http.MethodGet, "channels", "", &p)
	path := "channels/" + p.Channels[0].ID
	var shown channelInfo
	if status := s.call(http.MethodGet, path, "", &shown); status != http.StatusOK || len(shown.Messages) != 0 {
		t.Errorf("%d %+v", status, shown)
	}
	if text := s.fails(http.StatusForbidden, http.MethodGet, path+"?messages=5", ""); strings.Contains(text, "secret") {
		t.Error(text)
	}
	s.reload("megaphone {\ninspect_messages\n}", "megaphone")
	if status := s.call(http.MethodGet, path+"?messages=5", "", &shown); status != http.StatusOK || len(shown.Messages) != 2 ||
		string(shown.Messages[0].Message.Body) != `"secret"` || !shown.Messages[0].InFlight || shown.Messages[1].InFlight {
		t.Errorf("%d %+v", status, shown)
	}
	var plain channelInfo
	if s.call(http.MethodGet, path, "", &plain); len(plain.Messages) != 0 {
		t.Errorf("a request that does not ask for messages gets some: %+v", plain)
	}
}

func TestAdminLimitsTheBytesOfMessagesThatItShows(t *testing.T) {
	s := serveAdmin(t, "megaphone {\ninspect_messages\nmax_message_size 12MB\n}", "megaphone")
	c := s.create()
	show := func() (shown channelInfo) {
		var p channelPage
		s.call(http.MethodGet, "channels", "", &p)
		if status := s.call(http.MethodGet, "channels/"+p.Channels[0].ID+"?messages=1000", "", &shown); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
		return shown
	}
	body := `"` + strings.Repeat("x", 6<<20) + `"`
	for n := range 2 {
		s.write(c, body)
		if shown := show(); len(shown.Messages) != n+1 || shown.MoreMessages {
			t.Errorf("%d of %d messages, more: %v", len(shown.Messages), n+1, shown.MoreMessages)
		}
	}
	s.write(c, body)
	if shown := show(); len(shown.Messages) != 2 || !shown.MoreMessages {
		t.Errorf("%d of 3 messages, more: %v", len(shown.Messages), shown.MoreMessages)
	}
}

func TestAdminRefusesBadRequests(t *testing.T) {
	s := serveAdmin(t, "", "megaphone")
	c := s.create()
	var p channelPage
	s.call(http.MethodGet, "channels", "", &p)
	id := p.Channels[0].ID
	for _, test := range []struct {
		status             int
		method, path, body string
	}{
		{404, "GET", "unknown", ""},
		{404, "GET", "", ""},
		{405, "POST", "channels", ""},
		{405, "PUT", "drain", ""},
		{405, "DELETE", "stats", ""},
		{400, "GET", "channels?limit=0", ""},
		{400, "GET", "channels?limit=1001", ""},
		{400, "GET", "channels?limit=1&limit=2", ""},
		{400, "GET", "channels?cursor=x", ""},
		{400, "GET", "channels?agnt=main", ""},
		{400, "GET", "channels?connected=1", ""},
		{400, "GET", "channels?min_age=-1s", ""},
		{400, "GET", "channels?min_pending=x", ""},
		{400, "GET", "channels?agent=a.b", ""},
		{400, "GET", "channels/" + c.ConsumerAddress, ""},
		{400, "DELETE", "channels/" + c.ConsumerAddress, ""},
		{404, "GET", "channels/0000000000000000", ""},
		{400, "DELETE", "channels", ""},
		{400, "DELETE", "channels", "{}"},
		{400, "DELETE", "channels", `{"channels":"all"}`},
		{400, "POST", "lookup", `{"channels":[1]}`},
		{400, "POST", "lookup", `{"channels":["\ud800"]}`},
		{413, "POST", "lookup", `{"channels":["` + strings.Repeat("x", 1<<20) + `"]}`},
		{400, "POST", "drain", `{"over":"-1s"}`},
		{400, "POST", "drain", `{"over":5}`},
		{400, "POST", "drain", `{"ovr":"10m"}`},
		{400, "POST", "drain", `{"over":"10m"}{"over":"1m"}`},
		{400, "POST", "backup", `{"path":"relative"}`},
		{400, "POST", "backup", `{}`},
		{405, "GET", "backup", ""},
		{501, "POST", "backup", `{"path":"/nowhere/backup"}`},
		{400, "POST", "drain?over=10m", ""},
		{400, "DELETE", "drain?over=10m", ""},
		{400, "GET", "drain?x", ""},
		{400, "GET", "stats?agent=main", ""},
		{400, "GET", "channels?min_age=1d;agent=main", ""},
		{400, "GET", "channels/" + id + "?message=5", ""},
		{400, "GET", "channels/" + id + "?messages=1&messages=2", ""},
		{400, "DELETE", "channels/" + id + "?min_age=1d", ""},
		{400, "DELETE", "channels?agent=x", `{"channels":["` + id + `"]}`},
		{400, "DELETE", "channels", `{"channels":["` + id + `"],"min_age":"1d"}`},
		{400, "POST", "lookup?agent=x", `{"channels":["` + id + `"]}`},
	} {
		s.fails(test.status, test.method, test.path, test.body)
	}
	if r := s.post("/channelsExists", fmt.Sprintf(`{"channels":[%q]}`, c.ConsumerAddress)); !strings.Contains(r.body, "true") {
		t.Errorf("the channel is gone: %s", r.body)
	}
	var drain struct{ Draining bool }
	if s.call(http.MethodGet, "drain", "", &drain); drain.Draining {
		t.Error("the server drains")
	}
}

func TestAdminWithoutMegaphone(t *testing.T) {
	s := serveAdmin(t, "", "megaphone")
	s.reload("", "respond ok")
	s.fails(http.StatusNotFound, http.MethodGet, "stats", "")
}

// TestAdminWithoutOptionalInterfaces checks the admin API with a Broker that has none of the optional interfaces.
func TestAdminWithoutOptionalInterfaces(t *testing.T) {
	s := serveAdmin(t, "megaphone {\nbroker guest\n}", "megaphone")
	s.create()
	var page struct{ Channels []struct{ ID string } }
	if status := s.call(http.MethodGet, "channels", "", &page); status != http.StatusOK || len(page.Channels) != 1 {
		t.Errorf("list: %d, %v", status, page)
	}
	var stats struct{ Agent string }
	if status := s.call(http.MethodGet, "stats", "", &stats); status != http.StatusOK || stats.Agent != "main" {
		t.Errorf("stats: %d, %v", status, stats)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		var refusal struct{ Error string }
		if status := s.call(method, "drain", "{}", &refusal); status != http.StatusNotImplemented || refusal.Error == "" {
			t.Errorf("%s drain: %d, %v", method, status, refusal)
		}
	}
}

func TestAdminDrainsTheServer(t *testing.T) {
	s := serveAdmin(t, "", "megaphone create write read health")
	type state struct {
		Draining, Done                   bool
		Over                             string
		Started                          *time.Time
		Channels, Remaining, Undelivered int
	}
	var none, begun state
	if s.call(http.MethodGet, "drain", "", &none); none.Draining || none.Done || none.Started != nil {
		t.Errorf("state %+v", none)
	}
	c := s.create()
	s.write(c, "1")
	if r := s.get("/health"); r.StatusCode != http.StatusOK || r.body != `{"status":"OK"}` {
		t.Errorf("health %d %s", r.StatusCode, r.body)
	}
	if status := s.call(http.MethodPost, "drain", `{"over":"0s"}`, &begun); status != http.StatusAccepted ||
		!begun.Draining || begun.Done || begun.Channels != 1 || begun.Remaining != 1 || begun.Started == nil || begun.Over != "0s" {
		t.Errorf("%d %+v", status, begun)
	}
	drained := func(when string) {
		t.Helper()
		refused := s.tryCreate()
		refused.wantError(t, 503, "LIMIT_REACHED")
		if refused.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", when)
		}
		if r := s.get("/health"); r.StatusCode != http.StatusServiceUnavailable || r.body != `{"status":"DRAINING"}` || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s: health %d %s", when, r.StatusCode, r.body)
		}
		var health struct{ Status string }
		if status := s.call(http.MethodGet, "health?t=1", "", &health); status != http.StatusServiceUnavailable || health.Status != "DRAINING" {
			t.Errorf("%s: health %d %+v", when, status, health)
		}
	}
	drained("at once")
	s.reload("megaphone {\nbuffer 7\n}", "megaphone create write read health")
	drained("after a reload")
	s.tryWrite(c, "2").wantError(t, 404, "NOT_FOUND")
	read := s.read(c) // ends soon; the clean end settles the message
	read.ends("1")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var now state
		if s.call(http.MethodGet, "drain", "", &now); now.Done {
			if now.Remaining != 0 || now.Undelivered != 0 || now.Channels != 1 {
				t.Errorf("state %+v", now)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the drain is not done: %+v", now)
		}
	}
	var undone state
	if status := s.call(http.MethodDelete, "drain", "", &undone); status != http.StatusOK || undone.Draining {
		t.Errorf("%d %+v", status, undone)
	}
	s.create()
	if r := s.get("/health"); r.StatusCode != http.StatusOK {
		t.Errorf("health %d after the drain", r.StatusCode)
	}
	var totals struct {
		Agent                                string
		Channels, Readers, Pending, InFlight int
		BufferedBytes                        int64
		Draining                             bool
	}
	if status := s.call(http.MethodGet, "stats", "", &totals); status != http.StatusOK || totals.Agent != "main" || totals.Channels != 1 || totals.Draining {
		t.Errorf("%d %+v", status, totals)
	}
}

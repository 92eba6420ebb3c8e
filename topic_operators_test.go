package megaphone_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestEventsOfTopics: the first member and the last one's leaving are events, in order, with the handlers of Caddy's events and
// with webhooks, and the later one has the later time.
func TestEventsOfTopics(t *testing.T) {
	type post struct {
		name   string
		Topics []string
		Times  map[string]time.Time
	}
	posts := make(chan post, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		p := post{name: r.Header.Get("Megaphone-Event")}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &p); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		posts <- p
	}))
	defer receiver.Close()
	s := serve(t, "events {\non megaphone.topic_occupied record\non megaphone.topic_vacated record\n}\nmegaphone {\n"+topicBroker+
		"\nwebhook topic_occupied "+receiver.URL+"\nwebhook topic_vacated "+receiver.URL+"\n}", topicSite)
	a, b := s.createWith(`{"topics":["room/1"]}`), s.create()
	s.join("room/1", b, "")
	for _, c := range []channel{a, b} {
		s.call(200, http.MethodDelete, "/topic/room%2F1/"+c.ProducerAddress, "")
	}
	s.wantEvent("megaphone.topic_occupied", map[string]any{"topic": "room/1"})
	s.wantEvent("megaphone.topic_vacated", map[string]any{"topic": "room/1"})
	times := map[string]time.Time{}
	for range 2 {
		select {
		case p := <-posts:
			if len(p.Topics) != 1 || p.Topics[0] != "room/1" || p.Times["room/1"].IsZero() {
				t.Errorf("posted %+v", p)
			}
			times[p.name] = p.Times["room/1"]
		case <-s.Context().Done():
			t.Fatal("a webhook is missing")
		}
	}
	if !times["topic_vacated"].After(times["topic_occupied"]) {
		t.Errorf("the times are %v", times)
	}
	select {
	case e := <-recordedEvents:
		t.Errorf("event %s %v", e.Name(), e.Data)
	default:
	}
}

// A topicInfo is a topic as the admin API shows it.
type topicInfo struct {
	Topic                    string
	Members, Connected, Kept int
	Keep                     int64
	TTL                      string
	Closed                   *string
}

func TestAdminTopics(t *testing.T) {
	s := serveAdmin(t, "megaphone {\n"+topicBroker+"\nmax_topics 3\n}", topicSite)
	a, b := s.createWith(`{"topics":["news","room/1"]}`), s.createWith(`{"topics":[]}`)
	s.server.call(200, http.MethodPut, "/topic/kept", `{"keep":"1KB","ttl":"90s"}`)
	s.publish("kept", "0")

	var members struct {
		Done     int
		NotFound []string
	}
	names := `"channels":["` + b.ConsumerAddress + `","` + s.id(a) + `","nobody"]`
	if status := s.call(http.MethodPost, "topics/kept/join", `{`+names+`,"last":"all"}`, &members); status != 200 || members.Done != 2 ||
		len(members.NotFound) != 1 || members.NotFound[0] != "nobody" {
		t.Errorf("join: %d %+v", status, members)
	}
	var p struct{ Members, Accepted, Full int }
	if status := s.call(http.MethodPost, "topics/kept/publish", `{"streamId":"stream","body":1,"key":"k"}`, &p); status != 200 || p.Members != 2 || p.Accepted != 2 {
		t.Errorf("publish: %d %+v", status, p)
	}
	if status := s.call(http.MethodPost, "topics/kept/leave", `{`+names+`}`, &members); status != 200 || members.Done != 2 || len(members.NotFound) != 1 {
		t.Errorf("leave: %d %+v", status, members)
	}
	read := s.read(b)
	read.wants("0", "1")

	var topic topicInfo
	if status := s.call(http.MethodGet, "topics/kept", "", &topic); status != 200 || topic.Topic != "kept" || topic.Members != 0 ||
		topic.Kept != 2 || topic.Keep != 1000 || topic.TTL != "1m30s" || topic.Closed != nil {
		t.Errorf("show: %d %+v", status, topic)
	}
	if status := s.call(http.MethodPost, "topics/kept/close", `{"as":"aborted"}`, &topic); status != 200 || topic.Closed == nil || *topic.Closed != "aborted" {
		t.Errorf("close: %d %+v", status, topic)
	}
	if status := s.call(http.MethodGet, "topics/room%2F1", "", &topic); status != 200 || topic.Topic != "room/1" || topic.Members != 1 {
		t.Errorf("show: %d %+v", status, topic)
	}

	var all []string
	for cursor := ""; ; {
		var page struct {
			Topics []topicInfo
			Next   string
		}
		s.call(http.MethodGet, "topics?limit=1&min_members=1&cursor="+url.QueryEscape(cursor), "", &page)
		for _, topic := range page.Topics {
			all = append(all, topic.Topic)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if got := strings.Join(all, " "); got != "news room/1" && got != "room/1 news" {
		t.Errorf("the list is %s", got)
	}
	for _, test := range []struct {
		status             int
		method, path, body string
	}{
		{400, "GET", "topics?limit=0", ""},
		{400, "GET", "topics?min_members=x", ""},
		{400, "GET", "topics?prefixes=x", ""},
		{400, "GET", "topics/news?x=1", ""},
		{400, "GET", "topics/" + strings.Repeat("x", 256), ""},
		{405, "DELETE", "topics/news", ""},
		{404, "GET", "topics/news/other", ""},
		{400, "POST", "topics/news/join", "{}"},
		{400, "POST", "topics/news/join", `{"channels":[],"last":"some"}`},
		{400, "POST", "topics/news/publish", `{"streamId":"s"}`},
		{400, "POST", "topics/news/publish", `{"streamId":"","body":1}`},
		{400, "POST", "topics/news/publish", `{"streamId":"s","body":1,"key":""}`},
		{400, "POST", "topics/news/publish", `{"streamId":"s","body":1,"full":"wait"}`},
		{409, "POST", "topics/kept/publish", `{"streamId":"s","body":1}`},
		{400, "POST", "topics/news/close", `{"as":"later"}`},
		{409, "POST", "topics/fourth/join", `{"channels":["` + s.overfull().ProducerAddress + `"]}`},
	} {
		s.fails(test.status, test.method, test.path, test.body)
	}
}

// overfull returns a channel that can join no more topics.
func (s *adminServer) overfull() channel {
	s.Helper()
	return s.createWith(`{"topics":["news","x","y"]}`)
}

// id returns the id of a channel.
func (s *adminServer) id(c channel) string {
	s.Helper()
	var found struct{ Channels []channelInfo }
	if s.call(http.MethodPost, "lookup", `{"channels":["`+c.ProducerAddress+`"]}`, &found); len(found.Channels) != 1 {
		s.Fatalf("lookup: %+v", found)
	}
	return found.Channels[0].ID
}

func TestAdminWithoutTopics(t *testing.T) {
	s := serveAdmin(t, "megaphone {\nbroker guest\n}", "megaphone")
	for path, method := range map[string]string{"topics": "GET", "topics/a": "GET", "topics/a/join": "POST", "topics/a/close": "POST"} {
		if text := s.fails(501, method, path, ""); !strings.Contains(text, "the configured broker has no topics") {
			t.Errorf("%s: %s", path, text)
		}
	}
}

func TestTheInspectorListsTopics(t *testing.T) {
	s := serve(t, "megaphone {\n"+topicBroker+"\n}", "handle_path /with/* {\n"+topicSite+" ui\n}\nmegaphone create ui")
	s.call(200, http.MethodPut, "/with/topic/news/"+s.create().ProducerAddress, "")
	var state struct {
		Topics []struct {
			Topic   string
			Members int
			Closed  *string
		}
	}
	if err := json.Unmarshal([]byte(s.get("/with/ui/state.json").body), &state); err != nil {
		t.Fatal(err)
	}
	if len(state.Topics) != 1 || state.Topics[0].Topic != "news" || state.Topics[0].Members != 1 || state.Topics[0].Closed != nil {
		t.Errorf("%+v", state)
	}
	if body := s.get("/ui/state.json").body; strings.Contains(body, "news") {
		t.Errorf("a site without topics says %s", body)
	}
}

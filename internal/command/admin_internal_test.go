package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/admin"
)

// adminStub starts a server in place of the admin API.
func adminStub(t *testing.T, serve http.HandlerFunc) *adminAPI {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return &adminAPI{address: server.Listener.Addr().String()}
}

func TestChannelsFollowsPagesUpToTheLimit(t *testing.T) {
	for _, test := range []struct {
		limit    int
		want     int
		requests []string
	}{
		{0, 4, []string{"agent=a&limit=1000", "agent=a&cursor=2&limit=1000", "agent=a&cursor=4&limit=1000"}},
		{1, 1, []string{"agent=a&limit=1"}},
		{2, 2, []string{"agent=a&limit=2"}},
		{3, 3, []string{"agent=a&limit=3", "agent=a&cursor=2&limit=1"}},
		{5, 4, []string{"agent=a&limit=5", "agent=a&cursor=2&limit=3", "agent=a&cursor=4&limit=1"}},
	} {
		t.Run(fmt.Sprint(test.limit), func(t *testing.T) {
			var requests []string
			api := adminStub(t, func(w http.ResponseWriter, r *http.Request) { // two channels per page, the last page is empty
				requests = append(requests, r.URL.RawQuery)
				var first, limit int
				_, _ = fmt.Sscan(r.URL.Query().Get("cursor"), &first)
				_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &limit)
				page := admin.ListReply{Channels: make([]admin.Channel, min(2, limit, 4-first))}
				if first < 4 {
					page.Next = fmt.Sprint(first + len(page.Channels))
				}
				_ = json.NewEncoder(w).Encode(page)
			})
			got := 0
			for _, err := range api.channels(t.Context(), url.Values{"agent": {"a"}}, test.limit) {
				if err != nil {
					t.Fatal(err)
				}
				got++
			}
			if got != test.want || !slices.Equal(requests, test.requests) {
				t.Errorf("%d channels, requests %q", got, requests)
			}
		})
	}
}

func TestAdminErrorsSayWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		status int
		reply  string
		want   string
		exit   int // 0: not an exitError
	}{
		{404, `{"error":"no such channel"}`, "no such channel", exitNotFound},
		{503, `{"error":"draining"}`, "draining", exitTryAgain},
		{400, `{"error":"invalid body"}`, "status 400: invalid body", 0},
		{404, "404 page not found", "does not have Megaphone's admin API", 0},
		{200, "hello", "cannot decode the reply", 0},
	} {
		api := adminStub(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.reply))
		})
		err := api.get(t.Context(), "stats", new(admin.Stats))
		exit := 0
		if e, ok := errors.AsType[*exitError](err); ok {
			exit = e.status
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || exit != test.exit {
			t.Errorf("%d %s: %v, exit status %d", test.status, test.reply, err, exit)
		}
	}
}

func TestReadNames(t *testing.T) {
	names, err := readNames(strings.NewReader("a\n\n  main.b \r\n{\"id\":\"c\",\"agent\":\"main\"}\nd"))
	if want := []string{"a", "main.b", "c", "d"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q %v", names, err)
	}
	for _, input := range []string{"{", `{"agent":"main"}`, strings.Repeat("x", admin.MaxBody+1)} {
		if names, err := readNames(strings.NewReader("a\n" + input)); err == nil {
			t.Errorf("%.20s: %.20q", input, names)
		}
	}
}

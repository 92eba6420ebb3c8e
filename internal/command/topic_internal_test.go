package command

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTopicCommands checks the request that each command makes, and what it prints.
func TestTopicCommands(t *testing.T) {
	const topic = `{"topic":"room/1\u001b","members":1200,"connected":950,"kept":3,"keptBytes":2048,"keep":1048576,"ttl":"1h0m0s","closed":null}`
	for _, test := range []struct {
		args, request, reply, out string
	}{
		{
			"list --prefix room/ --min-members 2 --limit 1", "GET topics?limit=1&min_members=2&prefix=room%2F", `{"topics":[` + topic + `],"next":"x"}`,
			"TOPIC         MEMBERS  CONNECTED  KEPT  CLOSED\nroom/1\\u001b  1200     950        3     -\n",
		},
		{"list --json", "GET topics?limit=1000", `{"topics":[` + topic + `]}`, topic + "\n"},
		{
			"show ..", "GET topics/%2E%2E", strings.Replace(topic, "null", `"done"`, 1),
			"topic      room/1\\u001b\nmembers    1200\nconnected  950\nkept       3 messages, 2.0 KiB of 1.0 MiB, for 1h0m0s\nclosed     done\n",
		},
		{"show --json a/b%", "GET topics/a%2Fb%25", topic, topic + "\n"},
		{"join news 1 main.x", `POST topics/news/join {"channels":["1","main.x"]}`, `{"done":2,"notFound":[]}`, "joined 2\n"},
		{"join --last all news 1", `POST topics/news/join {"channels":["1"],"last":"all"}`, `{"done":1,"notFound":[]}`, "joined 1\n"},
		{"join --last 5 news 1", `POST topics/news/join {"channels":["1"],"last":5}`, `{"done":0,"notFound":["1"]}`, "joined 0\n1 of 1 channels do not exist"},
		{"join --last x news 1", "", "", `--last: "x" is neither a whole number nor all`},
		{"join --json news 1", `POST topics/news/join {"channels":["1"]}`, `{"done":1,"notFound":[]}`, `{"done":1,"notFound":[]}` + "\n"},
		{"leave news 1", `POST topics/news/leave {"channels":["1"]}`, `{"done":1,"notFound":[]}`, "left 1\n"},
		{
			"publish --text --key k --full hold news s Hi", `POST topics/news/publish {"body":"Hi","full":"hold","key":"k","streamId":"s"}`,
			`{"members":3,"accepted":2,"full":1}`, "2 of 3 members have taken it, 1 had no room\n",
		},
		{"publish --json news s 1", `POST topics/news/publish {"body":1,"streamId":"s"}`, `{"members":0,"accepted":0,"full":0}`, `{"members":0,"accepted":0,"full":0}` + "\n"},
		{"publish news s Hi", "", "", "Hi is not JSON: quote it as JSON, or use --text"},
		{"close --aborted --stream s news", `POST topics/news/close {"as":"aborted","streamId":"s"}`, topic, "topic      room/1\\u001b\n"},
	} {
		t.Run(test.args, func(t *testing.T) {
			request := ""
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				request = strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, strings.TrimPrefix(r.RequestURI, "/megaphone/"), body))
				_, _ = io.WriteString(w, test.reply)
			}))
			defer server.Close()
			cmd := topicCommand()
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetErr(io.Discard)
			cmd.SetArgs(append(strings.Fields(test.args), "--address", server.Listener.Addr().String()))
			cmd.SilenceUsage = true
			got := ""
			if err := cmd.ExecuteContext(t.Context()); err != nil {
				got = err.Error()
			}
			if got = out.String() + got; !strings.HasPrefix(got, test.out) {
				t.Errorf("printed\n%s, want\n%s", got, test.out)
			}
			if request != test.request {
				t.Errorf("requested %s, want %s", request, test.request)
			}
		})
	}
}

// TestTopicCommandsHaveHelp: each says what it does, with an example that names it, in lines that fit a terminal.
func TestTopicCommandsHaveHelp(t *testing.T) {
	for _, c := range topicCommand().Commands() {
		if !strings.Contains(c.Example, "caddy megaphone topic "+c.Name()) || c.Short == "" {
			t.Errorf("%s: example %q", c.Name(), c.Example)
		}
		for line := range strings.Lines(c.Long) {
			if len(strings.TrimSpace(line)) > 80 {
				t.Errorf("%s: a line of the help has %d characters: %s", c.Name(), len(line), line)
			}
		}
	}
}

package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // the name that Redis has for a script
	"embed"
	"encoding/hex"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The scripts. Redis runs each as one step. They are called by the hash of their text, so two versions of Megaphone can use
// one Redis while servers are upgraded.
var (
	createScript    = newScript("", "state", "create")
	publishScript   = newScript("", "state", "waiting", "merge", "marks", "publish")
	subscribeScript = newScript(allowOOM, "state", "waiting", "merge", "marks", "readers", "channel", "subscribe")
	advanceScript   = newScript(allowOOM, "state", "waiting", "merge", "marks", "readers", "channel", "advance")
	withdrawScript  = newScript(allowOOM, "state", "waiting", "merge", "marks", "channel", "withdraw")
	retryScript     = newScript(allowOOM, "state", "waiting", "merge", "marks", "channel", "retry")
	deleteScript    = newScript(allowOOM, "state", "home", "members", "remove", "delete")
	sweepScript     = newScript(allowOOM, "state", "waiting", "home", "members", "remove", "sweep")
	reapScript      = newScript(allowOOM, "state", "waiting", "readers", "reap")
	countScript     = newScript(allowOOM, "count")
	beatScript      = newScript(allowOOM, "state", "beat")
	touchScript     = newScript(allowOOM, "touch")

	joinScript     = newScript("", "state", "waiting", "merge", "marks", "channel", "home", "members", "join")
	answerScript   = newScript(allowOOM, "state", "waiting", "merge", "marks", "channel", "answer")
	leaveScript    = newScript(allowOOM, "state", "waiting", "merge", "marks", "channel", "home", "members", "leave")
	walkScript     = newScript("", "state", "waiting", "merge", "marks", "channel", "home", "members", "walk")
	keepScript     = newScript("", "state", "home", "keep")
	topicScript    = newScript(allowOOM, "state", "home", "topic")
	registerScript = newScript("", "state", "home", "register")
	toldScript     = newScript(allowOOM, "state", "home", "told")
)

// allowOOM lets a script run although Redis' memory is used up (maxmemory). All do but those that need more of it: only what
// readers take makes room again.
const allowOOM = "#!lua flags=allow-oom\n"

// A script is one text that Redis runs.
type script struct{ text, hash string }

// newScript puts a script together from its parts, without comments.
func newScript(flags string, parts ...string) *script {
	var text strings.Builder
	text.WriteString(flags)
	for _, part := range parts {
		file, err := luaFiles.ReadFile("lua/" + part + ".lua")
		if err != nil {
			panic(err)
		}
		for line := range strings.Lines(string(file)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--") {
				text.WriteString(line + "\n")
			}
		}
	}
	hash := sha1.Sum([]byte(text.String())) //nolint:gosec // the name that Redis has for a script
	return &script{text.String(), hex.EncodeToString(hash[:])}
}

// A scriptCall is what a script is run with.
type scriptCall struct{ keys, args []string }

func (s *script) command(c rueidis.CoreClient, call scriptCall) rueidis.Completed {
	return c.B().Evalsha().Sha1(s.hash).Numkeys(int64(len(call.keys))).Key(call.keys...).Arg(call.args...).Build()
}

// again returns the command that runs the script where its hash was not known.
func (s *script) again(c rueidis.CoreClient, call scriptCall) rueidis.Completed {
	return c.B().Eval().Script(s.text).Numkeys(int64(len(call.keys))).Key(call.keys...).Arg(call.args...).Build()
}

// run runs the script.
func (s *script) run(ctx context.Context, c rueidis.CoreClient, call scriptCall) rueidis.RedisResult {
	reply := c.Do(ctx, s.command(c, call))
	if isUnknownScript(reply.Error()) {
		reply = c.Do(ctx, s.again(c, call))
	}
	return reply
}

// runAll runs the script with each of the calls, in one round trip, or two if a server does not know it. The calls may run in any
// order.
func (s *script) runAll(ctx context.Context, c rueidis.CoreClient, calls []scriptCall) []rueidis.RedisResult {
	if len(calls) == 0 {
		return nil
	}
	commands := make([]rueidis.Completed, len(calls))
	for i, call := range calls {
		commands[i] = s.command(c, call)
	}
	replies := c.DoMulti(ctx, commands...)
	var unknown []int
	var again []rueidis.Completed
	for i, reply := range replies {
		if isUnknownScript(reply.Error()) {
			unknown, again = append(unknown, i), append(again, s.again(c, calls[i]))
		}
	}
	if len(unknown) > 0 {
		for i, reply := range c.DoMulti(ctx, again...) {
			replies[unknown[i]] = reply
		}
	}
	return replies
}

func isUnknownScript(err error) bool {
	refusal, ok := rueidis.IsRedisErr(err)
	return ok && refusal.IsNoScript()
}

// maxMemory is the largest memory limit that Lua can count exactly.
const maxMemory = 1 << 50

// ms returns a duration in milliseconds, rounded up.
func ms(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

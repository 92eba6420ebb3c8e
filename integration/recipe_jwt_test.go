package integration

import (
	"crypto/rand"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

func TestRecipeJSONWebToken(t *testing.T) {
	t.Parallel()
	modules, err := exec.Command(testserver.Binary(t), "list-modules").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, modules)
	}
	if !strings.Contains(string(modules), "\nhttp.authentication.providers.jwt\n") {
		t.Skip("needs a Caddy with the plugin of the page, named by MEGAPHONE_CADDY: see step_xcaddy in .ci/run")
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	r := openRecipe(t, "jwt")
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	r.setenv("JWT_KEY", base64.StdEncoding.EncodeToString(key))
	if err := os.WriteFile(filepath.Join(r.dir, "tokens.py"), []byte(r.block("python", 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := r.start(0)
	r.session(hello, hello, hello, "\n401\n401\n$")

	client := r.client(s)
	channel := r.backend.channel("alice")
	token := func(key string) string {
		return strings.TrimSpace(r.run(key + `python3 -c "from tokens import token; print(token('alice', '` + channel.ConsumerAddress + `'))"`))
	}
	right := token("")
	r.backend.write(channel, "1")
	if text, err := r.firstMessage(client, site+"/events?after=&token="+right, "alice"); err != nil || !strings.HasSuffix(text, `"body":1}`) {
		t.Errorf("a WebSocket: %q %v", text, err)
	}
	r.wantStatus(401, client, site+"/events?token="+token("JWT_KEY=c29tZSBvdGhlciBrZXk= "))
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(right, ".")[1] + "."
	r.wantStatus(401, client, site+"/events?token="+unsigned)
	// The path of the original serves no reads here: the backend answers.
	r.wantStatus(404, client, site+"/read/"+channel.ConsumerAddress, "Cookie", "session=alice")
}

package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestOpenAPI has Schemathesis send requests to a server that docs/openapi.yaml describes, malformed ones too, and compare the
// replies with the description. It leaves out two checks: a schema cannot say what the server makes of null, or which
// values a limit refuses.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3")
	if _, err := os.Stat(filepath.Join("openapi", "site-packages")); err != nil {
		if os.Getenv("MEGAPHONE_LIBRARIES") != "" {
			t.Fatal(err)
		}
		t.Skip("Schemathesis is not installed: run integration/clients/openapi/install")
	}
	s := testserver.New(t)
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	// The description is of Megaphone: net/http must not refuse long queries with a 431 of its own.
	s.Start("servers {\nmax_header_size 64MB\n}\nmegaphone {\nread_duration 200ms\nstream_duration 200ms\nhold 100ms\n}",
		url+" {\nbind 127.0.0.1\nmegaphone create write read exists manage topics publish health\n}")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-m", "schemathesis.cli", "run", "../../../docs/openapi.yaml", "--url", url,
		"--max-examples", "20", "--exclude-checks", "positive_data_acceptance,negative_data_rejection", "--no-color")
	cmd.Dir = "openapi"
	cmd.Env = append(os.Environ(), "PYTHONPATH=site-packages:.", "SCHEMATHESIS_HOOKS=ndjson")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

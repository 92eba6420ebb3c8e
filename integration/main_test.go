package integration

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestMain runs more tests at once than there are processors. Tests that need the processors for themselves are not parallel.
func TestMain(m *testing.M) { testserver.Main(m) }

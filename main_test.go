package megaphone_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestMain lets the tests of TestRealTime run at once, also where there are fewer processors.
func TestMain(m *testing.M) { testserver.Main(m) }

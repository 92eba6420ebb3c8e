package brokertest_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// In real time, most tests wait.
func TestMain(m *testing.M) { testserver.Main(m) }

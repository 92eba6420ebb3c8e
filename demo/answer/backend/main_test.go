package backend_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m) }

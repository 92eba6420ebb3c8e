package integration

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// TestMain runs more tests at once than there are processors, unless -parallel says otherwise. Most of them wait for a
// server most of the time. Tests that need the processors for themselves are not parallel.
func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel").Value; parallel.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = parallel.Set("6")
	}
	os.Exit(m.Run())
}

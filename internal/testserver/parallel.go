package testserver

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// Main runs more tests at once than there are processors, unless -parallel says otherwise. Call it from TestMain of a package
// whose tests wait for servers and clients most of the time. It does not return.
func Main(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel").Value; parallel.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = parallel.Set("6")
	}
	os.Exit(m.Run())
}

package memory

import (
	"testing"
	"unsafe"
)

// TestAChannelFitsIntoABlock of Go's memory: there are some of 256 bytes, and the next ones have 288.
func TestAChannelFitsIntoABlock(t *testing.T) {
	if size := unsafe.Sizeof(channel{}); size > 256 {
		t.Errorf("a channel takes %d bytes", size)
	}
}

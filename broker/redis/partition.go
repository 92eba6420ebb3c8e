package redis

import (
	"strings"
	"sync"
)

// Channels live in 256 partitions. The first byte of a channel's id is its partition. All keys of a partition have the same
// hash tag, so in a Redis Cluster they lie on one server, and one script can use them.
const partitions = 256

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// tags returns the hash tags of the partitions. Tag i is in slot range i of 256 ranges of equal size. So the partitions are
// spread evenly over the servers of a cluster, which numbers as tags would not be. The tags are part of the format of the
// data: they must never change.
var tags = sync.OnceValue(func() (tags [partitions]string) {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	missing := partitions
	for i := 0; missing > 0; i++ {
		tag := string([]byte{digits[i/len(digits)%len(digits)], digits[i%len(digits)]})
		if i >= len(digits)*len(digits) {
			tag = string(digits[i/len(digits)/len(digits)-1]) + tag
		}
		if p := hashSlot(tag) / (slots / partitions); tags[p] == "" {
			tags[p] = tag
			missing--
		}
	}
	return tags
})

// allTags returns the hash tags of all partitions, 3 bytes each.
var allTags = sync.OnceValue(func() string {
	var all strings.Builder
	for _, tag := range tags() {
		all.WriteString((tag + "  ")[:3])
	}
	return all.String()
})

// hashSlot returns the slot of a hash tag: CRC-16/XMODEM modulo the number of slots.
func hashSlot(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}

package memory

import "math/bits"

// members are the members of a topic, in blocks of slots. So none of them moves while others come and go, and it takes the same
// time to add or remove one, however many there are. Its zero value is empty.
type members struct {
	blocks []block
	// roomy has a bit for each block, which says that it may have an empty slot. New members fill the first of these, so blocks
	// at the end become empty and are dropped.
	roomy []uint64
	count int
}

// A block is a part of the members. The slots of an empty block are nil.
type block struct {
	slots []slot
	used  int
}

// A slot has a member. An empty one has none.
type slot struct {
	channel *channel
	joined  uint64 // the number of the last walk when it joined
}

// blockSize is how many slots a block has. The first one grows up to that, since most topics are small.
const blockSize = 256

// add adds a member and returns its place.
func (ms *members) add(s slot) (place int) {
	i := ms.firstRoomy()
	b := &ms.blocks[i]
	at := 0
	for at < len(b.slots) && b.slots[at].channel != nil {
		at++
	}
	if at == len(b.slots) {
		if i > 0 && b.slots == nil {
			b.slots = make([]slot, 0, blockSize)
		}
		b.slots = append(b.slots, slot{})
	}
	b.slots[at] = s
	if b.used++; b.used == blockSize {
		ms.roomy[i/64] &^= 1 << (i % 64)
	}
	ms.count++
	return i*blockSize + at
}

// firstRoomy returns the first block that has an empty slot. It adds one if there is none.
func (ms *members) firstRoomy() int {
	for i, word := range ms.roomy {
		if word != 0 {
			return i*64 + bits.TrailingZeros64(word)
		}
	}
	i := len(ms.blocks)
	ms.blocks = append(ms.blocks, block{})
	if i/64 == len(ms.roomy) {
		ms.roomy = append(ms.roomy, 0)
	}
	ms.roomy[i/64] |= 1 << (i % 64)
	return i
}

// remove removes the member at a place.
func (ms *members) remove(place int) {
	i := place / blockSize
	b := &ms.blocks[i]
	b.slots[place%blockSize] = slot{}
	ms.roomy[i/64] |= 1 << (i % 64)
	ms.count--
	if b.used--; b.used > 0 {
		return
	}
	b.slots = nil
	for last := len(ms.blocks) - 1; last >= 0 && ms.blocks[last].used == 0; last-- {
		ms.blocks = ms.blocks[:last]
		ms.roomy[last/64] &^= 1 << (last % 64)
	}
	if len(ms.blocks) == 0 {
		ms.blocks, ms.roomy = nil, nil
	}
}

// block appends the slots of a block to dst. There is none if more is false.
func (ms *members) block(dst []slot, i int) (slots []slot, more bool) {
	if i >= len(ms.blocks) {
		return dst, false
	}
	return append(dst, ms.blocks[i].slots...), true
}

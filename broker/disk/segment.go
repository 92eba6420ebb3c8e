package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"
)

// A segment is one file of the journal that is being written. It has its whole size from the start, and zeros where
// nothing is written yet. The lock of the log guards it.
type segment struct {
	sequence uint64
	file     file
	mem      []byte // the file
	end      int    // where the next record begins
	synced   int    // up to here, everything is known to be durable
}

// A header begins a segment.
//
//	 0  magic, written last
//	 8  version
//	12  flags
//	16  sequence
//	24  end of the segment before
//	32  tag of the next new channel
//	36  –
//	56  checksum of all this
//	64  mark: up to here, everything was durable
//	72  checksum of the mark
type header struct {
	version  uint32
	suspect  bool // the segment before could not be written as a whole: what is damaged in it counts for nothing
	sequence uint64
	before   uint64 // how much of the segment before counts; zero if there was none
	nextTag  uint32
}

const (
	segmentHeader = 128
	markOffset    = 64
	magic         = uint64(0x6c6e726a6167656d) // "megajrnl"
	// formatVersion is the version of the format. A version reads the journals of all versions before. It refuses those of
	// later ones.
	formatVersion = 1
	suspectFlag   = 1
)

// errUnused marks a segment that was prepared, and never used.
var errUnused = errors.New("the segment was never used")

// word returns 8 bytes as a number that can be written at once. They begin at a multiple of 8 bytes.
func word(mem []byte, offset int) *uint64 { return (*uint64)(unsafe.Pointer(&mem[offset])) } //nolint:gosec // aligned, in bounds

// storeWord writes 8 bytes at once, after everything that was written before.
func storeWord(mem []byte, offset int, value uint64) {
	var little [8]byte
	binary.LittleEndian.PutUint64(little[:], value)
	atomic.StoreUint64(word(mem, offset), binary.NativeEndian.Uint64(little[:]))
}

// begin writes the header of a segment.
func (s *segment) begin(h *header) error {
	s.sequence, s.end, s.synced = h.sequence, segmentHeader, 0
	return s.guarded(func() (from, to int) {
		b := s.mem[:segmentHeader]
		binary.LittleEndian.PutUint64(b, 0)
		binary.LittleEndian.PutUint32(b[8:], h.version)
		binary.LittleEndian.PutUint32(b[12:], uint32(bit(h.suspect, suspectFlag)))
		binary.LittleEndian.PutUint64(b[16:], h.sequence)
		binary.LittleEndian.PutUint64(b[24:], h.before)
		binary.LittleEndian.PutUint32(b[32:], h.nextTag)
		binary.LittleEndian.PutUint32(b[56:], crc32.Checksum(b[8:56], castagnoli))
		storeWord(s.mem, 0, magic)
		return 0, segmentHeader
	})
}

// parseHeader reads the header of a segment. It fails with errUnused if there is none yet, and with errDamaged.
func parseHeader(data []byte) (h header, err error) {
	if isZero(data[:min(8, len(data))]) {
		return h, errUnused
	}
	if len(data) < segmentHeader || binary.LittleEndian.Uint64(data) != magic ||
		binary.LittleEndian.Uint32(data[56:]) != crc32.Checksum(data[8:56], castagnoli) {
		return h, errDamaged
	}
	h = header{
		version:  binary.LittleEndian.Uint32(data[8:]),
		suspect:  binary.LittleEndian.Uint32(data[12:])&suspectFlag != 0,
		sequence: binary.LittleEndian.Uint64(data[16:]),
		before:   binary.LittleEndian.Uint64(data[24:]),
		nextTag:  binary.LittleEndian.Uint32(data[32:]),
	}
	if h.version != formatVersion {
		return h, fmt.Errorf("it has version %d of the format, and this program knows version %d: use the program that wrote it, or a later one",
			h.version, formatVersion)
	}
	return h, nil
}

// isZero reports whether all bytes are zero.
func isZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) // which compares many at once
}

// withoutZeros returns the bytes up to the last one that is not zero.
func withoutZeros(b []byte) []byte {
	const chunk = 64 << 10
	for len(b) > chunk && isZero(b[len(b)-chunk:]) {
		b = b[:len(b)-chunk]
	}
	return bytes.TrimRight(b, "\x00")
}

// setMark notes in the file that everything up to s.synced is durable. The note itself may be lost.
func (s *segment) setMark() error {
	return s.guarded(func() (from, to int) {
		putMark(s.mem, s.synced)
		return markOffset, markOffset + 16
	})
}

// putMark notes in a segment that everything up to an offset is durable.
func putMark(data []byte, synced int) {
	b := data[markOffset:]
	binary.LittleEndian.PutUint64(b, uint64(synced)) //nolint:gosec // not negative
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
}

// mark returns up to where everything in a segment was durable once, or zero if that is not known. It may be more than is left.
func mark(data []byte) int {
	if len(data) < segmentHeader {
		return 0
	}
	b := data[markOffset:]
	m := binary.LittleEndian.Uint64(b)
	if binary.LittleEndian.Uint32(b[8:]) != crc32.Checksum(b[:8], castagnoli) || m > math.MaxInt {
		return 0
	}
	return int(m)
}

// append appends a record, whose payload is given in two parts, and returns its offset. There must be room for it.
func (s *segment) append(head, body []byte) (offset int, err error) {
	offset = s.end
	size := len(head) + len(body)
	err = s.guarded(func() (from, to int) {
		payload := s.mem[offset+recordHeader:][:size]
		copy(payload[copy(payload, head):], body)
		sum := checksum(s.sequence, offset, payload)
		storeWord(s.mem, offset, uint64(sum)<<32|uint64(size)) //nolint:gosec // not negative
		return offset, offset + recordHeader + size
	})
	if err == nil {
		s.end += recordSize(size)
	}
	return offset, err
}

// guarded calls f, which writes to s.mem and says where. If the system cannot provide the memory, because the disk fails
// or the file was cut off, guarded fails. Without it, that would end the process.
func (s *segment) guarded(f func() (from, to int)) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := asFault(recover()); fault != nil {
			err = fmt.Errorf("the file cannot be written: the disk fails, or somebody has cut it off: %w", fault)
		}
	}()
	from, to := f()
	return s.file.written(from, to)
}

// segmentName returns the name of a segment's file. Names are in the order of the sequence.
func segmentName(sequence uint64) string { return fmt.Sprintf("%016x%s", sequence, segmentSuffix) }

const segmentSuffix = ".journal"

func isSegmentName(name string) bool {
	_, ok := parseSegmentName(name)
	return ok
}

// parseSegmentName reports whether a file is a segment, and returns its place in the sequence.
func parseSegmentName(name string) (sequence uint64, ok bool) {
	text, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(text) != 16 {
		return 0, false
	}
	sequence, err := strconv.ParseUint(text, 16, 64)
	return sequence, err == nil && segmentName(sequence) == name
}

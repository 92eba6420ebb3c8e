package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
)

// errDamaged marks a place of a segment that has neither a record nor the end.
var errDamaged = errors.New("damaged")

// recordAt returns the record at an offset of a segment. It fails with errDamaged if none is there.
func recordAt(data []byte, sequence uint64, offset int) (r record, err error) {
	payload, err := payloadAt(data, sequence, offset)
	if err != nil {
		return r, err
	}
	return parseRecord(payload)
}

// payloadAt returns the payload of the record at an offset. It is empty where nothing was written.
func payloadAt(data []byte, sequence uint64, offset int) ([]byte, error) {
	if offset < segmentHeader || offset%8 != 0 || offset > len(data)-recordHeader {
		return nil, errDamaged
	}
	head := binary.LittleEndian.Uint64(data[offset:])
	if head == 0 {
		return nil, nil
	}
	size := int(head & 0xffffffff)
	begin := offset + recordHeader
	if size == 0 || size > len(data)-begin {
		return nil, errDamaged
	}
	payload := data[begin : begin+size : begin+size]
	if checksum(sequence, offset, payload) != uint32(head>>32) {
		return nil, errDamaged
	}
	return payload, nil
}

// readRecords calls f with each record of a segment up to an offset, until f returns false. It returns where the first
// thing stands that is no record: the end, unless the error is errDamaged. Any other error is about a record that is
// whole.
func readRecords(data []byte, sequence uint64, end int, f func(offset int, payload []byte, r *record) bool) (int, error) {
	data = data[:min(end, len(data))]
	offset := segmentHeader // which may be behind the end
	var r record
	for offset <= len(data)-recordHeader {
		payload, err := payloadAt(data, sequence, offset)
		if err != nil || len(payload) == 0 {
			return offset, err
		}
		if r, err = parseRecord(payload); err != nil {
			return offset, err
		}
		if !f(offset, payload, &r) {
			return offset, nil
		}
		offset += recordSize(len(payload))
	}
	return min(offset, len(data)), nil
}

// readBehind calls f with each record that is whole behind a damaged place, and returns how many there are. It gives up
// after some work.
func readBehind(data []byte, sequence uint64, from, end int, f func(offset int, r *record)) (n int) {
	const maxWork = 1 << 30 // bytes to checksum
	data = data[:min(end, len(data))]
	for offset, work := max(from, segmentHeader), 0; offset <= len(data)-recordHeader && work < maxWork; {
		payload, err := payloadAt(data, sequence, offset)
		if err == nil && len(payload) > 0 {
			if r, err := parseRecord(payload); err == nil {
				f(offset, &r)
			}
			n++
			offset += recordSize(len(payload))
			continue
		}
		if size := int(binary.LittleEndian.Uint32(data[offset:])); size < len(data)-offset {
			work += size
		}
		offset += 8
	}
	return n
}

// guardReads calls f, which reads files that are mapped into memory. If the disk cannot read them, guardReads fails.
// Without it, that would end the process.
func guardReads(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := asFault(recover()); fault != nil {
			err = fmt.Errorf("a file cannot be read: the disk fails, or somebody has cut it off: %w", fault)
		}
	}()
	return f()
}

// asFault returns what recover returned as the fault that it is, or nil if there was no panic. It panics with any other.
func asFault(r any) error {
	if r == nil {
		return nil
	}
	fault, ok := r.(interface {
		error
		Addr() uintptr
	})
	if !ok {
		panic(r)
	}
	return fault
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

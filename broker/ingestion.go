package broker

import (
	"context"
	"strings"
	"unicode/utf8"
)

// An Ingestion is one producer's stream of writes to many channels (protocol.md 2.6). A channel without room holds back
// its own messages only. An Ingestion is for one goroutine at a time.
type Ingestion interface {
	// Write appends a message to the channel of a producer address, or merges it, as [Broker].Publish does, but does not wait
	// for room.
	// It waits only while the ingestion holds back more than 1 MiB of messages (protocol.md 2.6), and fails with the error
	// of ctx if that ends meanwhile. Finish tells, under the given number, what became of the message. Write does not keep
	// the bytes of the address.
	Write(ctx context.Context, number int, producer []byte, m *Message) error

	// Fail notes a message that could not be written.
	Fail(number int, producer string, err error)

	// Finish waits until nothing is held back any more, at most the hold time for each message, and tells what became of
	// all messages. If ctx ends, it withdraws what is held back. The caller must call it exactly once.
	Finish(ctx context.Context) IngestResult
}

// An IngestResult says what became of the messages of an [Ingestion].
type IngestResult struct {
	// Written is how many messages the channels have taken.
	Written int
	// Failures are the others, in the order of their numbers. At most [MaxIngestFailures] are listed.
	Failures []IngestFailure
	// FailuresTotal counts all failures. RefusedMemory counts those with [ErrMemoryLimit].
	FailuresTotal, RefusedMemory int
}

// MaxIngestFailures is how many failures an [IngestResult] lists.
const MaxIngestFailures = 1000

// An IngestFailure is a message that was not written. Make one with [NewIngestFailure].
type IngestFailure struct {
	Number int
	// Producer is the producer address as it was given, but at most [MaxFailureName] bytes of it.
	Producer string
	// Err is as for [Broker].Publish, or [ErrSkipped].
	Err error
}

// MaxFailureName is how many bytes of an address an [IngestFailure] has at most. What was given as an address may be as long as
// a message, and an ingestion keeps [MaxIngestFailures] of them until its end.
const MaxFailureName = 255

// NewIngestFailure returns a failure. It keeps the beginning of the address only, and not the memory of a longer one.
func NewIngestFailure(number int, producer string, err error) IngestFailure {
	if len(producer) > MaxFailureName {
		n := MaxFailureName
		for n > MaxFailureName-utf8.UTFMax && !utf8.RuneStart(producer[n]) {
			n--
		}
		producer = strings.Clone(producer[:n])
	}
	return IngestFailure{Number: number, Producer: producer, Err: err}
}

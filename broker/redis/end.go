package redis

import (
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// owedEnds are the ends of reads that Redis does not know of yet, by fence.
type owedEnds struct {
	mu  sync.Mutex
	all map[uint32]report
}

// owe keeps an end.
func (o *owedEnds) owe(p report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[uint32]report{}
	}
	o.all[p.fence] = p
}

// get returns the end of a read. That of a read of which nothing is known settles nothing.
func (o *owedEnds) get(fence uint32) report {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p, ok := o.all[fence]; ok {
		return p
	}
	return report{fence: fence, ends: true}
}

func (o *owedEnds) paid(fence uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, fence)
}

// sendEnd frees the channel for the next reader. If Redis does not answer, it goes on trying in the background.
func (s *subscription) sendEnd(p report) {
	b := s.broker
	err := s.tryEnd(p)
	if err != nil && !b.isClosed() {
		b.owed.owe(p)
		b.warn(&b.warnings.ends, "redis: ends of reads could not be told, trying again", "error", err)
		guard.Go(guard.Broker, func() { s.retryEnd(p) })
	}
	b.subs.remove(s)
}

// maxEnds is how often the end of a read is told. After that, the channel is free when its next reader asks this node, when a node
// looks after all readers (reap), or when this node stops.
const maxEnds = 10

func (s *subscription) retryEnd(p report) {
	defer s.broker.owed.paid(p.fence)
	for i := range maxEnds {
		select {
		case <-time.After(time.Second << min(i, 5)):
		case <-s.broker.closing:
			return
		}
		if s.tryEnd(p) == nil {
			return
		}
	}
}

// tryEnd tells Redis the end of a read.
func (s *subscription) tryEnd(p report) error {
	call := s.broker.reportCall(s.x, p)
	return s.broker.toldEnd(p, s.broker.run(s.broker.background, advanceScript, call.keys, call.args...))
}

// toldEnd takes the reply to the end of a read.
func (b *Broker) toldEnd(p report, reply rueidis.RedisResult) error {
	values, err := reply.ToArray()
	if err != nil {
		if _, codeErr := reply.AsInt64(); codeErr == nil {
			return nil // it is not the reader any more
		}
		return err
	}
	b.countSettled(p, values)
	return nil
}

// disown frees channels of which Redis says that a read of this node has them, which is over: Redis was not told, or what it replied
// to the start of the read got lost, or it has gone back to a time when there was that read. So whoever asks for a channel next gets
// it, and a channel for which nobody asks expires. The fences are those of the reads.
func (b *Broker) disown(reads map[channelID]uint32) {
	guard.Go(guard.Broker, func() {
		b.subs.exclude(reads) // what has a reader here may just have got another fence
		_ = b.endAll(reads)   // or else the next one that asks does it
	})
}

// endAll tells Redis that reads are over. It returns the last error.
func (b *Broker) endAll(reads map[channelID]uint32) (err error) {
	ends, calls := make([]report, 0, len(reads)), make([]scriptCall, 0, len(reads))
	for x, fence := range reads {
		p := b.owed.get(fence)
		ends, calls = append(ends, p), append(calls, b.reportCall(x, p))
	}
	for some := range slices.Chunk(calls, maxVisited) {
		for i, reply := range b.runAll(b.background, advanceScript, some) {
			if endErr := b.toldEnd(ends[i], reply); endErr != nil {
				err = endErr
			}
		}
		ends = ends[len(some):]
	}
	return err
}

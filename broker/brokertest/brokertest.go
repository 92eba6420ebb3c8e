// Package brokertest is the contract of [broker.Broker] as tests. A package that has a Broker proves it with a test of its
// own:
//
//	func TestBroker(t *testing.T) {
//		brokertest.Run(t, brokertest.Options{
//			New:      func(t *testing.T) broker.Broker { return open(t, "test:"+rand.Text()) },
//			RealTime: true,
//		})
//	}
//
// The tests use nothing but the methods of the Broker. They compare messages by their lines, so a Broker may return another
// [broker.Message] than it was given.
//
// A Broker must pass all tests. It may only leave out the optional interfaces [broker.Drainer], [broker.Statser],
// [broker.DeletionSource], [broker.WaitingSource], [broker.MemoryUser], [broker.Topics], [broker.TopicSource] and [broker.Notifier]. A test of an
// interface that it does not implement is skipped, and says so. [broker.Limits].MaxMemory is not optional: every Broker must bound the messages that it keeps.
package brokertest

import (
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Options say which Broker the tests are for, and how they wait.
type Options struct {
	// New opens a Broker for one test. The Broker has no channels, and does not see those of other tests. If all tests use
	// one store, each Broker needs its own prefix for keys, or the like. The test closes the Broker before it runs the
	// functions that New has registered with t.Cleanup.
	//
	// In real time several tests run at once, so New must be safe for concurrent use.
	New func(t *testing.T) broker.Broker

	// RealTime selects the real clock. A Broker that talks to other processes needs it.
	//
	// Without RealTime, each test runs in a bubble of [testing/synctest]. There, waits cost no time, all times are exact to
	// the nanosecond, and a goroutine that outlives its Broker fails the test. The Broker must start all its goroutines in
	// New or later, so that they belong to the bubble. A Broker that lives in this process alone should pass in both modes.
	//
	// With RealTime, tests run in parallel and wait on the clock, with these tolerances:
	//   - Something that must happen may take up to 20 seconds, or 2 seconds once a test has failed.
	//   - Something that must not happen must not happen for the duration of Quiet.
	//   - A wait may be a fifth shorter than the limit that ends it. The limits that tests wait for are between a tenth of a
	//     second and a second.
	//   - A call of Settle may take effect a moment later. If its channel is deleted before, the messages are undelivered.
	//   - Times that the Broker reports may be off by a second.
	//   - The Broker may count the bytes of messages in its own way. It must refuse messages for want of memory once they take
	//     four times [broker.Limits].MaxMemory, counted by [broker.Message.Size], but not before they take a quarter of it.
	//
	// All tests together take some 15 seconds on two processors. They mostly wait, so go test -parallel=8 is much faster.
	RealTime bool

	// Shared tells that other Brokers may serve the same channels, so they outlive this Broker. Then a drain ends the reads of
	// this Broker only.
	Shared bool

	// Copies tells that the Broker keeps a copy of a message in each of its channels, so its bytes count for each.
	Copies bool

	// SoftLimits tells that [broker.Limits] for all channels together (MaxChannels, MaxReaders, MaxMemory) are exact only to some
	// seconds, because the Broker's store is several servers. Tests that need exact ones are skipped.
	SoftLimits bool

	// Quiet is how long a test in real time waits before it concludes that nothing happens. In that time, a call that
	// another goroutine has just begun must reach the store and take effect. The default is 50 ms. A bubble needs no Quiet.
	Quiet time.Duration
}

// Run tests a Broker. It returns when all tests have ended, those in parallel too.
func Run(t *testing.T, o Options) {
	if o.Quiet == 0 {
		o.Quiet = 50 * time.Millisecond
	}
	mode := "bubble"
	if o.RealTime {
		mode = "real time"
	}
	// Parallel tests begin when the function of their parent has returned, and the parent waits for them. So this parent
	// makes Run wait for them.
	t.Run(mode, func(t *testing.T) {
		failed := new(atomic.Bool)
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			t.Run(name, func(t *testing.T) { runGroup(t, o, groups[name], failed) })
		}
	})
}

// A group has the tests of one part of the contract, by name.
type group map[string]func(*suite)

var groups = map[string]group{
	"batch":             batchTests,
	"channels":          channelTests,
	"close":             closeTests,
	"concurrency":       concurrencyTests,
	"cursor":            cursorTests,
	"deletions":         deletionTests,
	"drain":             drainTests,
	"expiry":            expiryTests,
	"ingest":            ingestTests,
	"keyed":             keyedTests,
	"memory":            memoryTests,
	"merge limits":      mergeLimitTests,
	"merge":             mergeTests,
	"messages":          messageTests,
	"notify":            notifyTests,
	"operators":         operatorTests,
	"publish now":       publishNowTests,
	"publish then":      publishThenTests,
	"publish":           publishTests,
	"shared drain":      sharedDrainTests,
	"statistics":        statsTests,
	"subscribe":         subscribeTests,
	"topic concurrency": topicConcurrencyTests,
	"topic drain":       topicDrainTests,
	"topic events":      topicEventTests,
	"topic memory":      topicMemoryTests,
	"topic merge":       topicMergeTests,
	"topic model":       topicModelTests,
	"topics full":       topicFullTests,
	"topics":            topicTests,
	"unconfirmed":       unconfirmedTests,
	"waiting":           waitingTests,
	"window":            windowTests,
}

// needExactLimits are the tests that reach a limit for all channels together.
var needExactLimits = []string{
	"a channel that was refused because of its client does not count",
	"a deleted channel frees its memory",
	"a duplicate is dropped if the first message is let go while the duplicate is held",
	"a message that gets no memory fails, and counts as refused",
	"a larger limit of a newer configuration counts",
	"a producer that gets no memory within the hold time learns why",
	"a producer that waits for memory is merged when there is some",
	"a publish needs memory",
	"an expired channel does not count",
	"an expired channel frees its memory",
	"close ends the wait for memory",
	"kept messages are not merged without memory",
	"messages that got no memory are counted",
	"no more channels are created at once than allowed",
	"no more readers come at once than allowed",
	"producers wait for memory as for a full channel",
	"there are no more channels than allowed",
	"there are no more readers than allowed, except those that take over",
	"topics keep at most half of the memory",
	"what is merged needs memory",
	"without a hold time a producer that gets no memory is refused at once",
}

func runGroup(t *testing.T, o Options, tests group, failed *atomic.Bool) {
	if o.RealTime {
		t.Parallel()
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.Run(name, func(t *testing.T) {
			if o.RealTime {
				t.Parallel()
				if o.SoftLimits && slices.Contains(needExactLimits, name) {
					t.Skip("the limits of this Broker are not exact")
				}
				runTest(t, o, tests[name], failed)
				return
			}
			skipped := false
			synctest.Test(t, func(t *testing.T) {
				defer func() { skipped = t.Skipped() }()
				runTest(t, o, tests[name], failed)
			})
			if skipped { // the test in the bubble has said why
				t.SkipNow()
			}
		})
	}
}

func runTest(t *testing.T, o Options, test func(*suite), failed *atomic.Bool) {
	defer func() { failed.CompareAndSwap(false, t.Failed()) }()
	b := o.New(t)
	defer b.Close()
	if !o.RealTime {
		time.Sleep(123456789) // so the times of a test are not those of a ticker that New has started
	}
	test(&suite{
		T: t, Broker: b, limits: defaultLimits(o.RealTime), realTime: o.RealTime, quiet: o.Quiet, failed: failed,
		shared: o.Shared, copies: o.Copies,
	})
}

// defaultLimits returns the limits that tests begin with. In real time no test lasts as long as their Hold and TTL, so a
// slow machine cannot make them run out. A test that waits for their end sets shorter ones.
func defaultLimits(realTime bool) broker.Limits {
	l := broker.Limits{
		Buffer:      4,
		InFlight:    3,
		Hold:        10 * time.Second,
		TTL:         time.Minute,
		MaxChannels: 1000,
		MaxMemory:   1 << 30,
		MaxMessage:  1 << 20,
		MaxTopics:   10,
	}
	if realTime {
		l.Hold = time.Minute
	}
	return l
}

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
// The tests see a Broker from outside, through its methods. They compare messages by their lines, so a Broker may return
// another [broker.Message] than it was given. They share no memory with the Broker.
//
// Nothing of the contract may be left out, except the optional interfaces. Tests of [broker.Drainer], [broker.Statser],
// [broker.DeletionSource], [broker.MemoryUser] and [broker.Notifier] run if the Broker implements the interface. Otherwise
// they are skipped, and name the interface.
package brokertest

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Options say which Broker the tests are for, and how they wait.
type Options struct {
	// New opens a Broker for one test. It has no channels, and sees none of the Brokers of other tests: if all keep their
	// channels in one store, each needs a name space of its own. Each test opens one Broker, uses it, and closes it.
	// Whatever New registers with t.Cleanup runs after that.
	//
	// In real time several tests run at once, so New must be safe for concurrent use.
	New func(t *testing.T) broker.Broker

	// RealTime says that the Broker needs the real clock, because it talks to other processes.
	//
	// Without it, each test runs in a bubble of [testing/synctest]. Waits cost no time there, all times are exact to the
	// nanosecond, and a goroutine that outlives its Broker fails the test. A Broker that works in this process alone should
	// pass in both modes. It must start its goroutines in New or later, so that they belong to the bubble.
	//
	// In real time, tests wait on the clock, and run in parallel. Holds and lifetimes last between a tenth of a second and a
	// second. What must happen may take up to 20 seconds. What must not happen must stay away for Quiet. A call that should
	// last for its hold time may end a fifth earlier. Times of [broker.State] may be off by a second. The Broker may count
	// the bytes of messages in its own way: its memory is used up when messages take between a quarter of
	// [broker.Limits].MaxMemory and four times as much, by [broker.Message.Size]. All tests together take some ten seconds
	// on two processors; more with more time to reach the store.
	RealTime bool

	// Quiet is how long a test in real time waits before it concludes that nothing happens. It must suffice for a call that
	// another goroutine has just begun to reach the store, and to have its effect. The default is 50 ms. It has no meaning
	// in a bubble.
	Quiet time.Duration
}

// Run tests a Broker. It returns after the last test.
func Run(t *testing.T, o Options) {
	if o.Quiet == 0 {
		o.Quiet = 50 * time.Millisecond
	}
	mode := "bubble"
	if o.RealTime {
		mode = "real time"
	}
	// Parallel tests begin when the function of their parent has returned. So a parent of their own makes Run wait for them.
	t.Run(mode, func(t *testing.T) {
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			t.Run(name, func(t *testing.T) { runGroup(t, o, groups[name]) })
		}
	})
}

// A group is tests of one part of the contract, by name.
type group map[string]func(*suite)

var groups = map[string]group{
	"batch":       batchTests,
	"channels":    channelTests,
	"close":       closeTests,
	"concurrency": concurrencyTests,
	"cursor":      cursorTests,
	"deletions":   deletionTests,
	"drain":       drainTests,
	"expiry":      expiryTests,
	"ingest":      ingestTests,
	"keyed":       keyedTests,
	"memory":      memoryTests,
	"messages":    messageTests,
	"notify":      notifyTests,
	"operators":   operatorTests,
	"publish":     publishTests,
	"publish now": publishNowTests,
	"statistics":  statsTests,
	"subscribe":   subscribeTests,
	"window":      windowTests,
}

func runGroup(t *testing.T, o Options, tests group) {
	if o.RealTime {
		t.Parallel()
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.Run(name, func(t *testing.T) {
			if o.RealTime {
				t.Parallel()
				runTest(t, o, tests[name])
				return
			}
			skipped := false
			synctest.Test(t, func(t *testing.T) {
				defer func() { skipped = t.Skipped() }()
				runTest(t, o, tests[name])
			})
			if skipped { // the test in the bubble has said why
				t.SkipNow()
			}
		})
	}
}

func runTest(t *testing.T, o Options, test func(*suite)) {
	b := o.New(t)
	defer b.Close()
	test(&suite{T: t, Broker: b, limits: defaultLimits(o.RealTime), realTime: o.RealTime, quiet: o.Quiet})
}

// defaultLimits are the limits of tests that set none. In real time the hold is longer than any test, so a test that waits
// for its end must set a shorter one.
func defaultLimits(realTime bool) broker.Limits {
	l := broker.Limits{
		Buffer:      4,
		InFlight:    3,
		Hold:        10 * time.Second,
		TTL:         time.Minute,
		MaxChannels: 1000,
		MaxMemory:   1 << 30,
	}
	if realTime {
		l.Hold = time.Minute
	}
	return l
}

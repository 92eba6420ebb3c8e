package disk

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestALossOfPowerLosesNothing uses a Broker with the durability disk, and takes the power away at every operation of its
// files in turn. Everything that was written successfully before must be there again. In a second run, random pages survive
// that were not synced. In a third one, the disk fails now and then.
func TestALossOfPowerLosesNothing(t *testing.T) {
	seed := testSeed(t)
	t.Run("all unsynced is lost", func(t *testing.T) { losesNothing(t, seed, &testFolder{}, false) })
	t.Run("pages survive", func(t *testing.T) {
		losesNothing(t, seed, &testFolder{torn: rand.New(rand.NewPCG(seed, 2))}, false)
	})
	t.Run("the disk fails", func(t *testing.T) { losesNothing(t, seed, &testFolder{}, true) })
}

func losesNothing(t *testing.T, seed uint64, f *testFolder, fails bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var images []map[string][]byte
		f.crash = func(_ int, image map[string][]byte) { images = append(images, image) }
		var h facts
		b := Open(Options{segment: 16 << 10, folder: f, Settings: Settings{Durability: Disk}})
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		next := 0
		l := newLoad(b, seed, &next, func(a act, done bool, consumer string, n int) {
			h = append(h, fact{f.count(), a, done, consumer, n})
		})
		steps, pause, failed := 100, 20*time.Millisecond, 0
		if fails {
			steps, pause = 150, 100*time.Millisecond
			random := rand.New(rand.NewPCG(seed, 9))
			f.failWith(func(o, _ string) error {
				if o == "write" || o == "open" || o == "has" || random.IntN(12) > 0 {
					return nil
				}
				failed++
				return syscall.EIO
			})
		}
		for range steps {
			l.step(t.Context())
			time.Sleep(time.Duration(l.random.Int64N(int64(pause))))
		}
		f.failWith(nil)
		time.Sleep(maxPause + 2*retryInterval)
		if err := b.Healthy(); err != nil || fails != (failed > 0) {
			t.Errorf("%d operations have failed; the health is %v", failed, err)
		}
		b.Close()
		seen := 0
		for i, image := range images {
			again := Open(Options{segment: 16 << 10, folder: folderOf(image), Settings: Settings{Durability: Disk}})
			if err := again.Start(t.Context()); err != nil {
				t.Error(err)
			} else {
				seen += h.check(t, again, i+1, false)
			}
			again.Close()
			if t.Failed() {
				t.Fatalf("at operation %d of %d", i+1, len(images))
			}
		}
		t.Logf("%d operations, of which %d have failed, %d messages seen", len(images), failed, seen)
		if !fails && seen < 10*len(images) {
			t.Errorf("only %d messages in %d images", seen, len(images))
		}
	})
}

// testSeed returns a seed and logs it. MEGAPHONE_SEED sets another one.
func testSeed(tb testing.TB) uint64 {
	tb.Helper()
	seed, err := strconv.ParseUint(os.Getenv("MEGAPHONE_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	tb.Logf("MEGAPHONE_SEED=%d", seed)
	return seed
}

package disk

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// TestALossOfPowerLosesNothing uses a Broker with the durability disk, and takes the power away at every operation of its
// files in turn. Everything that was written successfully before must be there again. In a second run, random pages survive
// that were not synced.
func TestALossOfPowerLosesNothing(t *testing.T) {
	seed := testSeed(t)
	for name, torn := range map[string]*rand.Rand{"all unsynced is lost": nil, "pages survive": rand.New(rand.NewPCG(seed, 2))} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &testFolder{torn: torn}
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
				for range 100 {
					l.step(t.Context())
					time.Sleep(time.Duration(l.random.IntN(20)) * time.Millisecond)
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
				t.Logf("%d operations, %d messages seen", len(images), seen)
				if seen < 10*len(images) {
					t.Errorf("only %d messages in %d images", seen, len(images))
				}
			})
		})
	}
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

package command

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func() (int, error) {
			time.Sleep(time.Second)
			return 1, nil
		}
		if n, err := await(t.Context(), slow); n != 1 || err != nil {
			t.Errorf("%d %v", n, err)
		}
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, why)
		defer cancel()
		if n, err := await(ctx, slow); n != 0 || !errors.Is(err, why) {
			t.Errorf("%d %v", n, err)
		}
		begun := false
		_, err := await(ctx, func() (int, error) {
			begun = true
			return 1, nil
		})
		if !errors.Is(err, why) || begun {
			t.Errorf("%v, begun: %v", err, begun)
		}
		time.Sleep(time.Minute) // until slow has ended
	})
}

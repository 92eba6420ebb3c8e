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
		called := false
		_, err := await(ctx, func() (int, error) {
			called = true
			return 1, nil
		})
		if !errors.Is(err, why) || called {
			t.Errorf("%v, called: %v", err, called)
		}
		time.Sleep(time.Minute) // until the abandoned call has ended
	})
}

package main

import (
	"context"
)

func guard(ctx context.Context, o options) error { return nil }

//go:build !unix

package netturn

func give() bool { return false }

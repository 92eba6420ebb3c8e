package redis

import "github.com/caddy-megaphone/megaphone/broker"

// Resync makes a subscription ask Redis what it has missed, as after a lost connection.
func Resync(s broker.Subscription) { s.(*subscription).resync() }

// AsksForMore reports whether a subscription is going to ask Redis for messages.
func AsksForMore(sub broker.Subscription) bool {
	s := sub.(*subscription)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report.more
}

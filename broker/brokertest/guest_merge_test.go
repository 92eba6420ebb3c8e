package brokertest_test

import "github.com/caddy-megaphone/megaphone/broker"

// merge removes the newest message, and returns what it and m become.
func (g *guest) merge(c *channel, m broker.StoredMessage) broker.StoredMessage {
	last := len(c.messages) - 1
	older := c.messages[last]
	m.Body = restore(m).MergeWith(restore(older)).Body()
	c.messages = c.messages[:last]
	g.bytes -= restore(older).Size()
	if older.Keyed {
		c.keys = append(c.keys, older.ID)
	}
	return m
}

// merges reports whether the next message of a write would be merged.
func (c *channel) merges(w *write) bool {
	return c.pending() > 0 && restore(w.messages[0]).CanMerge(c.newest(), w.limits.MaxMessage)
}

func (c *channel) newest() *broker.Message { return restore(c.messages[len(c.messages)-1]) }

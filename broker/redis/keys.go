package redis

import "crypto/sha256"

// A keyspace builds the names of keys. All keys of a partition share a hash tag. What belongs to all channels has a scope:
// the whole Redis, or in a cluster a partition, because a script can only use keys of one slot.
type keyspace struct {
	prefix string // of all keys
	parts  [partitions]string
	scopes []string // one, or one for each partition
}

func newKeyspace(prefix string, cluster bool) keyspace {
	k := keyspace{prefix: prefix}
	for i, tag := range tags() {
		k.parts[i] = prefix + "{" + tag + "}"
	}
	k.scopes = k.parts[:1]
	if cluster {
		k.scopes = k.parts[:]
	}
	return k
}

// key returns a key of a channel. The letters are: s state, q queue, w waiting calls, p their messages, k
// idempotency keys in order, i their set, g what the newest message may be merged with, j topics, v marks. Capital
// letters are keys of topics: see lua/home.lua and lua/members.lua. Other keys are those of partitions and scopes, below.
func (k *keyspace) key(letter byte, x channelID) string {
	part := k.parts[x.partition()]
	b := make([]byte, 0, len(part)+1+len(x))
	b = append(b, part...)
	b = append(b, letter)
	return string(append(b, x[:]...))
}

// expiries returns the key of the times of expiry in a partition.
func (k *keyspace) expiries(partition int) string { return k.parts[partition] + "x" }

// waiting returns the key of the channels of a partition in which messages wait that nobody reads: see lua/waiting.lua.
func (k *keyspace) waiting(partition int) string { return k.parts[partition] + "r" }

// quotas returns the key of the numbers of channels of clients in a partition.
func (k *keyspace) quotas(partition int) string { return k.parts[partition] + "u" }

// scopeOf returns the number of a partition's scope.
func (k *keyspace) scopeOf(partition int) int { return partition % len(k.scopes) }

// counters, deletions, unread and memory return the keys of a scope: counters, the stream of deletions to announce, that of channels to
// report in which messages wait, and the set of channels in which producers wait for memory.
func (k *keyspace) counters(scope int) string  { return k.scopes[scope] + "c" }
func (k *keyspace) deletions(scope int) string { return k.scopes[scope] + "o" }
func (k *keyspace) unread(scope int) string    { return k.scopes[scope] + "e" }
func (k *keyspace) memory(scope int) string    { return k.scopes[scope] + "m" }

// home returns the scope that has what there is of a topic beside its members.
func (k *keyspace) home(topic string) int {
	if len(k.scopes) == 1 {
		return 0
	}
	sum := sha256.Sum256([]byte(topic))
	return int(sum[0]) % len(k.scopes)
}

// topic returns a key of a topic in a scope.
func (k *keyspace) topic(letter string, scope int, topic string) string {
	return k.scopes[scope] + letter + topic
}

// told returns the key of what the homes of topics are to be told of a scope.
func (k *keyspace) told(scope int) string { return k.scopes[scope] + "y" }

// nodes returns the key of the nodes and their heartbeats.
func (k *keyspace) nodes() string { return k.parts[0] + "nodes" }

// aboutNodes returns the key of what the nodes tell of themselves.
func (k *keyspace) aboutNodes() string { return k.parts[0] + "about" }

// pushPrefix begins the names of the nodes' Pub/Sub channels in a scope.
func (k *keyspace) pushPrefix(scope int) string { return k.scopes[scope] + "n" }

// channelKeys returns the keys that the scripts for one channel take, and the first of their arguments.
func (k *keyspace) channelKeys(x channelID) (keys []string, prefix string) {
	scope := k.scopeOf(x.partition())
	return []string{k.key('s', x), k.counters(scope), k.memory(scope)}, k.pushPrefix(scope)
}

package broker

import "time"

// A StoreStatser is a [Broker] that keeps channels in a store outside this process, which other processes share. Each of
// these processes is a node.
type StoreStatser interface {
	// StoreStats returns what happened between this node and the store since the Broker was made. It does not wait, and asks
	// the store nothing.
	StoreStats() StoreStats
}

// StoreStats is what happened between a node and its store since the Broker was made. The counters are those of this node
// only.
type StoreStats struct {
	// RoundTrips counts calls to the store, and Failures those of them that the store did not answer or refused.
	RoundTrips, Failures uint64
	// Latency is how long the calls took. It includes the wait for replicas or for a disk.
	Latency Histogram
	// Queued is how many writes wait now until they are sent to the store.
	Queued int
	// Reconnects counts how often the connection for pushed messages was made again.
	Reconnects uint64
	// Resyncs counts how often a reader has asked the store where it was, because something it was to be told may be lost.
	Resyncs uint64
	// Fenced counts calls for a reader that the store refused, because another one has the channel.
	Fenced uint64
	// LostPushes counts messages that were pushed to this node and did not come. Their readers have fetched them.
	LostPushes uint64
	// Nodes are the nodes that share the store, as this node has last learned, which is seconds ago unless the store cannot be
	// reached.
	Nodes []StoreNode
}

// A StoreNode is a process that shares a store.
type StoreNode struct {
	// ID names the node as logs do. It is a new one each time that a process starts.
	ID string
	// Self tells that it is this process.
	Self bool
	// Host and Process are the name of the node's host and the number of its process. They may be empty.
	Host    string
	Process int
	// Readers is how many readers the node has.
	Readers int
	// Seen is when the node last told the store that it lives, by the store's clock.
	Seen time.Time
}

-- A node's heartbeat. KEYS: 1 nodes. ARGV: 2 node, 3 after how many milliseconds a node counts as gone.
-- Returns the time, 1 if the node was there already, and the nodes.
local t = now()
local added = redis.call('ZADD', KEYS[1], t, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', t - ARGV[3])
return {t, 1 - added, redis.call('ZRANGE', KEYS[1], 0, -1)}

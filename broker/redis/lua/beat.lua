-- A node's heartbeat. KEYS: 1 nodes, 2 what they tell of themselves. ARGV: 2 node, 3 after how many milliseconds a node counts
-- as gone, 4 what this node tells. Returns the time, 1 if the node was there already, the nodes, when each was seen last, and
-- what each tells.
local t = now()
local added = redis.call('ZADD', KEYS[1], t, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', t - ARGV[3])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
if redis.call('HLEN', KEYS[2]) > redis.call('ZCARD', KEYS[1]) then
  for _, node in ipairs(redis.call('HKEYS', KEYS[2])) do
    if not redis.call('ZSCORE', KEYS[1], node) then redis.call('HDEL', KEYS[2], node) end
  end
end
local nodes = redis.call('ZRANGE', KEYS[1], 0, -1)
return {t, 1 - added, nodes, redis.call('ZMSCORE', KEYS[1], unpack(nodes)), redis.call('HMGET', KEYS[2], unpack(nodes))}

-- Sets what a topic keeps. KEYS: 1 counters. ARGV: 2 the topic, 3 numbers. Returns 1 if the memory is used up.
local keep, ttl, memory, elsewhere = struct.unpack('<I7I5I7I7', ARGV[3])
local name = ARGV[2]
counters = KEYS[1]
scope = string.sub(counters, 1, -2)
if tonumber(redis.call('HGET', counters, 'bytes') or 0) + elsewhere >= memory then return 1 end
ensureTopic(name, keep, ttl)
if redis.call('HSET', scope .. 'H' .. name, 'set', 1) == 1 then redis.call('HINCRBY', counters, 'bytes', TOPIC) end
redis.call('HSET', scope .. 'H' .. name, 'keep', keep, 'ttl', ttl, 'last', now())
trim(name, keep)
settleTopic(name)
return 0

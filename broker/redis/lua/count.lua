-- Returns the counters, and some of the channels in which producers wait for memory, which it takes out of their set.
-- KEYS: 1 counters, 2 the set. ARGV: 2 how many channels.
local out = redis.call('HMGET', KEYS[1], 'channels', 'readers', 'messages', 'inflight', 'bytes', 'held', 'heldbytes')
for i = 1, #out do out[i] = tonumber(out[i] or 0) end
out[#out + 1] = redis.call('SPOP', KEYS[2], ARGV[2])
for _, n in ipairs(redis.call('HMGET', KEYS[1], 'topics', 'memberships', 'kept')) do out[#out + 1] = tonumber(n or 0) end
return out

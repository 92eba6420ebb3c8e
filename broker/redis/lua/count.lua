-- Adds what this node has published to the counters, and returns them. KEYS: 1 counters, 2 the set of channels in which
-- producers wait for memory. ARGV: 2 messages, 3 bytes, 4 how many of those channels to return.
if ARGV[2] ~= '0' then redis.call('HINCRBY', KEYS[1], 'messages', ARGV[2]) end
if ARGV[3] ~= '0' then redis.call('HINCRBY', KEYS[1], 'bytes', ARGV[3]) end
local out = redis.call('HMGET', KEYS[1], 'channels', 'readers', 'messages', 'inflight', 'bytes', 'held', 'heldbytes')
for i = 1, #out do out[i] = tonumber(out[i] or 0) end
out[#out + 1] = redis.call('SRANDMEMBER', KEYS[2], ARGV[4])
return out

-- Returns what there is to know of a topic: 1 if it exists, how many members this scope has, and how many of them have a reader. If
-- this scope is its home, also what it keeps: messages, bytes, the setting, its ttl, the end or an empty string, and other scopes
-- with members. KEYS: 1 counters. ARGV: 2 the topic, 3 1 if this scope is its home.
local name = ARGV[2]
counters = KEYS[1]
scope = string.sub(counters, 1, -2)
if ARGV[3] == '1' and not topicExists(name) then return {0, 0, 0} end
local readers = tonumber(redis.call('HGET', scope .. 'T' .. name, 'readers') or 0)
local out = {1, redis.call('ZCARD', scope .. 'M' .. name), math.max(0, readers)}
out[3] = math.min(out[2], out[3])
if ARGV[3] ~= '1' then return out end
local v = redis.call('HMGET', scope .. 'H' .. name, 'bytes', 'keep', 'ttl', 'closed')
out[4], out[5] = redis.call('LLEN', scope .. 'R' .. name), tonumber(v[1] or 0)
out[6], out[7], out[8] = tonumber(v[2]), tonumber(v[3]), v[4] or ''
for _, f in ipairs(redis.call('HKEYS', scope .. 'H' .. name)) do
  if string.match(f, '^s%d+$') then out[#out + 1] = tonumber(string.sub(f, 2)) end
end
return out

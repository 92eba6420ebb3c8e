-- Sees to it that walks over the members of a topic visit another scope, and returns what a join needs: the number of the last
-- walk, the end or an empty string, and kept messages. KEYS: 1 counters. ARGV: 2 the topic, 3 numbers, 4 number of the other scope,
-- 5 the id of the topic's record there.
local last, keep, ttl = struct.unpack('<I4I7I5', ARGV[3])
local name = ARGV[2]
counters = KEYS[1]
scope = string.sub(counters, 1, -2)
ensureTopic(name, keep, ttl)
visit(name, ARGV[4], ARGV[5])
settleTopic(name)
local h = scope .. 'H' .. name
local number = math.max(tonumber(field(name, 'number')), now() * 1000 - 1) -- as beginWalk would count
redis.call('HSET', h, 'number', number)
local out = {number, redis.call('HGET', h, 'closed') or ''}
if last > 0 then
  for _, m in ipairs(redis.call('LRANGE', scope .. 'R' .. name, -last, -1)) do out[#out + 1] = m end
end
return out

-- Frees channels whose reader's node is gone: one that has lived and lives no more, or one that nobody knows and nobody hears. A
-- node that has just come is in neither list. KEYS: 1 counters, 2 times of expiry of a partition. ARGV: 2 the nodes that live,
-- 3 how many channels to skip, 4 how many to look at, 5 the nodes that live no more. Returns how many of these have a reader, and how many were freed.
local function has(nodes, node)
  for at = 1, #nodes, 8 do
    if string.sub(nodes, at, at + 7) == node then return true end
  end
  return false
end

local base, kept, freed = string.sub(KEYS[2], 1, -2), 0, 0
for _, x in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], READING, '+inf', 'LIMIT', ARGV[3], ARGV[4])) do
  local key = base .. 's' .. x
  local s = redis.call('GET', key)
  if not s then
    redis.call('ZREM', KEYS[2], x)
    freed = freed + 1
  else
    local f = {struct.unpack(ALL, s)}
    local heard = not has(ARGV[2], f[8]) and push(f[8], 'p', struct.pack('<I4', f[9])) > 0
    if has(ARGV[2], f[8]) or heard and not has(ARGV[5], f[8]) then
      kept = kept + 1
    else
      if heard then push(f[8], 'f', struct.pack('<I4', f[9])) end -- it was stopped, and finds out when it goes on
      local t = now()
      redis.call('SETRANGE', key, 0, struct.pack(ALL, f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10] - 1, f[11], f[12], t, f[14], f[15]))
      redis.call('ZADD', KEYS[2], t + f[14], x)
      redis.call('HINCRBY', KEYS[1], 'readers', -1)
      freed = freed + 1
    end
  end
end
return {kept, freed}

-- Frees channels whose reader's node is gone. KEYS: 1 counters, 2 times of expiry of a partition. ARGV: 2 the nodes that live,
-- 3 how many channels to skip, 4 how many to look at. Returns how many of these have a reader, and how many were freed.
local base, kept, freed = string.sub(KEYS[2], 1, -2), 0, 0
for _, x in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], READING, '+inf', 'LIMIT', ARGV[3], ARGV[4])) do
  local key = base .. 's' .. x
  local s = redis.call('GET', key)
  if not s then
    redis.call('ZREM', KEYS[2], x)
    freed = freed + 1
  else
    local f = {struct.unpack(ALL, s)}
    local alive = false
    for at = 1, #ARGV[2], 8 do
      if string.sub(ARGV[2], at, at + 7) == f[8] then alive = true end
    end
    if alive then
      kept = kept + 1
    else
      local t = now()
      redis.call('SETRANGE', key, 0, struct.pack(ALL, f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10] - 1, f[11], f[12], t, f[14], f[15]))
      redis.call('ZADD', KEYS[2], t + f[14], x)
      redis.call('HINCRBY', KEYS[1], 'readers', -1)
      freed = freed + 1
    end
  end
end
return {kept, freed}

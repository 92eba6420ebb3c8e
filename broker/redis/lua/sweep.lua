-- Deletes expired channels. KEYS: 1 counters, 2 deletions, then the times of expiry of some partitions. ARGV: 2 how many
-- channels at most. Returns how many deletions are to be announced, whether there is more to delete, and then the numbers of
-- each channel.
local left, t, out = tonumber(ARGV[2]), now(), {0, 0}
for i = 3, #KEYS do
  local expired = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', t, 'LIMIT', 0, left + 1)
  for _, x in ipairs(expired) do
    if left == 0 then
      out[2] = 1
      break
    end
    left = left - 1
    local gone = remove(string.sub(KEYS[i], 1, -2), x, 0, KEYS[1], KEYS[2])
    if gone then out[#out + 1] = gone end
  end
  if out[2] == 1 then break end
end
out[1] = redis.call('XLEN', KEYS[2])
return out

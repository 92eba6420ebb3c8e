-- Deletes expired channels, and ends topics whose time is up. KEYS: 1 counters, 2 deletions, then the times of expiry of some
-- partitions. ARGV: 2 how many channels at most, 3 1 if the topics of the scope are to be looked after. Returns how many deletions
-- are to be announced, whether there is more to delete, whether other scopes are to be told of members of topics, topics whose
-- scopes are to be checked, and then the numbers of each channel.
counters = KEYS[1]
scope = string.sub(counters, 1, -2)
local left, t, out = tonumber(ARGV[2]), now(), {0, 0, 0, {}}
for i = 3, #KEYS do
  local expired = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', t, 'LIMIT', 0, left + 1)
  for _, x in ipairs(expired) do
    if left <= 0 then
      out[2] = 1
      break
    end
    left = left - 1
    local gone = remove(string.sub(KEYS[i], 1, -2), x, 0, KEYS[2])
    if gone then
      left = left - math.floor(gone[4] / 4)
      out[#out + 1] = gone
    end
  end
  if out[2] == 1 then break end
end
if ARGV[3] == '1' then
  local ended = redis.call('ZRANGEBYSCORE', scope .. 'E', '-inf', t, 'LIMIT', 0, ARGV[2])
  for _, name in ipairs(ended) do
    if redis.call('EXISTS', scope .. 'H' .. name) == 0 then redis.call('ZREM', scope .. 'E', name) end
    settleTopic(name)
  end
  if #ended == tonumber(ARGV[2]) then out[2] = 1 end
  out[3] = redis.call('EXISTS', scope .. 'y')
  out[4] = redis.call('ZRANGEBYSCORE', scope .. 'V', '-inf', t, 'LIMIT', 0, 10)
end
out[1] = redis.call('XLEN', KEYS[2])
return out

-- Frees channels whose reader's node is gone: one that has lived and lives no more, or one that nobody knows and nobody hears. A
-- node that has just come is in neither list. Nodes that live are asked, and free channels of which they have no reader.
-- KEYS: 1 counters, then the times of expiry of partitions. ARGV: 2 the nodes that live, 3 how many channels to skip in the first
-- partition, 4 how many to look at, 5 the nodes that live no more. Returns how many partitions are done, how many channels to skip
-- in the next one, and 0 if a node that lives did not hear the question.
local function has(nodes, node)
  for at = 1, #nodes, 8 do
    if string.sub(nodes, at, at + 7) == node then return true end
  end
  return false
end

local asked = {} -- what nodes that live are asked

-- Frees a channel, and reports false if its reader's node is alive.
local function free(expiries, x)
  local key = string.sub(expiries, 1, -2) .. 's' .. x
  local s = redis.call('GET', key)
  if not s then
    redis.call('ZREM', expiries, x)
    return true
  end
  local f = {struct.unpack(ALL, s)}
  if has(ARGV[2], f[8]) then
    local frames = asked[f[8]] or {}
    asked[f[8]] = frames
    frames[#frames + 1] = frame('p', struct.pack('<I4', f[9]) .. x)
    return false
  end
  local heard = push(f[8], 'p', struct.pack('<I4', f[9])) > 0
  if heard and not has(ARGV[5], f[8]) then return false end
  if heard then push(f[8], 'f', struct.pack('<I4', f[9])) end -- it was stopped, and finds out when it goes on
  local t = now()
  redis.call('SETRANGE', key, 0, struct.pack(ALL, f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10] - 1, f[11], f[12], t, f[14], f[15]))
  redis.call('ZADD', expiries, t + f[14], x)
  redis.call('HINCRBY', KEYS[1], 'readers', -1)
  if unread(f[2], f[3], f[10], f[15]) > 0 then noteWaiting(string.sub(expiries, 1, -2), x, t) end
  if f[10] >= 128 then readerChanged(string.sub(expiries, 1, -2) .. 'j' .. x, string.sub(KEYS[1], 1, -2), -1) end
  return true
end

local skip, left, done = tonumber(ARGV[3]), tonumber(ARGV[4]), 0
while left > 0 and done < #KEYS - 1 do
  local expiries = KEYS[done + 2]
  local xs = redis.call('ZRANGEBYSCORE', expiries, READING, '+inf', 'LIMIT', skip, left)
  for _, x in ipairs(xs) do
    if not free(expiries, x) then skip = skip + 1 end
  end
  left = left - #xs
  if left > 0 then done, skip = done + 1, 0 end
end
local heard = 1
for node, frames in pairs(asked) do
  if redis.call('SPUBLISH', ARGV[1] .. node, table.concat(frames)) == 0 then heard = 0 end
end
return {done, skip, heard}

-- Part of the scripts that delete channels. Returns the channel's numbers of messages pending and in flight, its age in
-- milliseconds, and of how many topics it was a member, or nothing if there is no such channel. base is the partition, counters and deletions are keys.
local function remove(base, x, reason, deletions)
  local s = redis.call('GET', base .. 's' .. x)
  if not s then
    redis.call('ZREM', base .. 'x', x)
    return nil
  end
  local head, len, inflight, sent, held, bytes, ahead, node, fence, flags, settled, created = struct.unpack(ALL, s)
  local agent = string.sub(s, STATE + 1)
  if flags % 2 == 1 then
    push(node, 'd', struct.pack('<I4', fence))
    redis.call('HINCRBY', counters, 'readers', -1)
  end
  if math.floor(flags / 8) % 2 == 1 then
    local client = string.sub(agent, 1, 8)
    agent = string.sub(agent, 9)
    if redis.call('HINCRBY', base .. 'u', client, -1) <= 0 then redis.call('HDEL', base .. 'u', client) end
  end
  if held > 0 then
    local size = 0
    for _, id in ipairs(redis.call('LRANGE', base .. 'w' .. x, 0, -1)) do
      local w = redis.call('HGET', base .. 'p' .. x, id)
      if w then
        local _, _, _, first, _, duplicates, left = struct.unpack('<I6I4I7I2I2I2I6', w)
        size = size + left
        push(string.sub(id, 1, 8), 'a', string.sub(id, 9) .. struct.pack('<I1I2I2', 4, first, duplicates) .. string.sub(w, 30, 33))
      end
    end
    redis.call('HINCRBY', counters, 'held', -held)
    redis.call('HINCRBY', counters, 'heldbytes', -size)
  end
  local topics = 0
  if flags >= 64 then
    for _, name in ipairs(redis.call('HKEYS', base .. 'j' .. x)) do
      topics = topics + 1
      drop(name, memberOf(base, x), flags % 2 == 1)
    end
    redis.call('UNLINK', base .. 'j' .. x, base .. 'v' .. x)
  end
  redis.call('UNLINK', base .. 's' .. x, base .. 'q' .. x, base .. 'w' .. x, base .. 'p' .. x, base .. 'k' .. x, base .. 'i' .. x,
    base .. 'g' .. x)
  redis.call('ZREM', base .. 'x', x)
  if len > 0 and flags % 2 == 0 then redis.pcall('ZREM', base .. 'r', x) end
  redis.call('HINCRBY', counters, 'channels', -1)
  if len > 0 then
    redis.call('HINCRBY', counters, 'messages', -len)
    redis.call('HINCRBY', counters, 'bytes', -bytes)
  end
  if inflight > 0 then redis.call('HINCRBY', counters, 'inflight', -inflight) end
  redis.call('XADD', deletions, 'MAXLEN', '~', 1000000, '*', 'd', x .. struct.pack('<I4I1', len, reason) .. agent)
  return {len - inflight, inflight, math.max(0, now() - created), topics}
end

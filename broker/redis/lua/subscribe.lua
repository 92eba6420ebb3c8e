-- Makes the caller the one reader of a channel.
-- ARGV: 2 node, 3 fence, 4 numbers, 5 the cursor (16 bytes, or empty), 6 in mode 2, the id of the last message that was taken
-- (16 bytes, or empty).
-- Modes: 0 plain, 1 take over, 2 resume after a fault: the caller was the reader, by another fence, and is again unless somebody else
-- is now. It may not have heard yet that its node has a new reader.
-- Returns -2 no such channel, -1 with the reader's node and fence if it is busy, -3 too many readers. Else head, len, in
-- flight, flags, resume (0 none, 1 complete, 2 gap), id of the last message that was let go, of each message in flight whether it
-- is keyed, its id and its size, whether memory was freed for which producers wait, how many messages were settled, unconfirmed,
-- and the messages.
local mode, ahead, ttl, maxReaders, elsewhere, count, maxBytes, follow, bytesElsewhere, redeliver, was =
  struct.unpack('<I1I3I5I5I5I3I5I1I7I1I4', ARGV[4])
if not load() then return -2 end
if hasReader() and mode == 2 then
  if c.node ~= ARGV[2] or c.fence ~= was then return {-1, c.node, c.fence} end
elseif hasReader() then
  if mode == 0 and tellReader('p') > 0 then return {-1, c.node, c.fence} end
  tellReader('t')
else
  local readers = tonumber(redis.call('HGET', KEYS[2], 'readers') or 0)
  if mode ~= 2 and maxReaders > 0 and readers + elsewhere >= maxReaders then return -3 end
  redis.call('HINCRBY', KEYS[2], 'readers', 1)
  redis.call('ZADD', base .. 'x', READING, x)
  c.flags = c.flags + 1
  if flag(128) then readerChanged(key('j'), string.sub(KEYS[2], 1, -2), 1) end
end
if follow == 1 then set(2) end
local resume, settled = 0, 0
if mode ~= 2 and redeliver == 0 and c.unconfirmed > 0 and not flag(2) then
  -- The client has seen the end of the read that has brought them.
  local size, id, keys, n = 0, nil, {}, c.unconfirmed
  each(0, n - 1, function(m)
    size, id = size + #m + OVERHEAD, string.sub(m, 2, 17)
    if string.byte(m) % 2 == 1 then keys[#keys + 1] = keyOf(m) end
  end)
  remember(keys, 1)
  settle(n, size, id)
  settled = n
end
if ARGV[5] ~= '' then
  resume = 2
  if c.settled == ARGV[5] then
    resume = 1
  else
    local size, keys = 0, {}
    -- The reader before may have taken more than its node has reported, but no more than it was given. After a fault not even
    -- that is known.
    each(0, (mode == 2 and c.len or math.max(c.inflight, c.sent)) - 1, function(m, i)
      size = size + #m + OVERHEAD
      if string.byte(m) % 2 == 1 then keys[#keys + 1] = keyOf(m) end
      if string.sub(m, 2, 17) == ARGV[5] then
        resume, settled = 1, settled + i + 1
        remember(keys, 1)
        settle(i + 1, size, ARGV[5])
        return false
      end
    end)
  end
end
if ARGV[6] ~= '' then
  each(c.inflight, c.len - 1, function(m, i)
    if string.sub(m, 2, 17) == ARGV[6] then
      c.inflight = i + 1
      return false
    end
  end)
end
c.node, c.fence, c.ahead, c.sent = ARGV[2], tonumber(ARGV[3]), ahead, 0
if not flag(16) then c.ttl = ttl end
if mode ~= 2 then c.read = now() end
local ids, out = {}, {c.head, c.len, c.inflight, c.flags, resume, c.settled, '', 0, settled, c.unconfirmed}
each(0, c.inflight - 1, function(m) ids[#ids + 1] = string.sub(m, 1, 17) .. struct.pack('<I4', #m + OVERHEAD) end)
out[7] = table.concat(ids)
fetch(out, 0, count, maxBytes)
admit(bytesElsewhere)
out[2] = c.len
out[8] = save()
return out

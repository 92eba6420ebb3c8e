-- What a reader's node reports and asks for, in one: what was taken, what is settled, more messages, and the end of the read.
-- ARGV: 2 node, 3 fence, 4 numbers, 5 id of the last message that is settled, then the keys of those that are.
-- Returns -1 if this is not the reader, -2 if there is no such channel, and -3 if the last message that is settled is not where the
-- node has it: Redis has gone back to an earlier time. Else head, len, how many the node was given, whether memory was freed for
-- which producers wait, and the messages.
-- Positions: taken up to, settled up to, what the node has.
local taken, settled, have, count, maxBytes, size, flags, ends, elsewhere, unconfirmed = struct.unpack('<I6I6I6I3I5I5I1I1I7I3', ARGV[4])
if not load() then return -2 end
if not hasReader() or c.node ~= ARGV[2] or c.fence ~= tonumber(ARGV[3]) then return -1 end
local lost = false
if settled > c.head then
  local last = redis.call('LINDEX', key('q'), settled - c.head - 1)
  lost = not last or string.sub(last, 2, 17) ~= ARGV[5]
end
if lost and ends == 0 then return -3 end -- the node resyncs
if lost then taken, settled, unconfirmed = 0, 0, 0 end
if flags % 4 >= 2 then set(2) end
if flags % 8 >= 4 then set(4) end
c.inflight = math.max(c.inflight, math.min(c.len, taken - c.head))
if settled > c.head then
  remember(ARGV, 6)
  settle(settled - c.head, size, ARGV[5])
end
local out = {0, 0, 0, 0}
if ends == 1 then
  c.flags, c.sent, c.read, c.unconfirmed = c.flags - 1, 0, now(), math.min(unconfirmed, c.inflight)
  redis.call('ZADD', base .. 'x', c.read + c.ttl, x)
  redis.call('HINCRBY', KEYS[2], 'readers', -1)
  if flag(128) then readerChanged(key('j'), string.sub(KEYS[2], 1, -2), -1) end
elseif count > 0 then
  -- What was pushed and got lost is sent again.
  fetch(out, math.max(0, have - c.head), count, maxBytes)
end
admit(elsewhere)
out[1], out[2], out[3] = c.head, c.len, c.sent
out[4] = save()
return out

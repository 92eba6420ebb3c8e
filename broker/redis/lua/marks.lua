-- Part of the scripts that write messages: what topics need to know of a channel and of its messages (protocol.md 2.12).
--
-- A channel whose flags have 64 has marks beside its queue: how many messages of topics it has missed since its newest message,
-- whether a piece of a text may be missing after that, and which of its messages do not count toward the buffer while they are
-- pending, by position.
--
-- A message may say how many the channel has missed before it, and since when the channel has it if it does not count. The first
-- byte says which of both there is, 8 and 16. They stand between the id and the line.
local OUTSIDE = 4294967295 -- the buffer of a call whose message does not count toward it

local function readMarks(key)
  local s, k = redis.call('GET', key), {key = key, missed = 0, gap = 0, spans = {}}
  if s then
    k.missed, k.gap = struct.unpack('<I4I1', s)
    for at = 6, #s, 12 do k.spans[#k.spans + 1] = {struct.unpack('<I6I6', s, at)} end
  end
  return k
end

-- How many messages from a position on do not count toward the buffer.
local function outsideOf(k, position)
  local n = 0
  for _, span in ipairs(k.spans) do n = n + math.max(0, span[2] - math.max(span[1], position)) end
  return n
end

-- Keeps marks. position is that of the oldest pending message. Returns whether there is anything to keep.
local function writeMarks(k, position)
  local out = {struct.pack('<I4I1', k.missed, k.gap)}
  for _, span in ipairs(k.spans) do
    if span[2] > position then out[#out + 1] = struct.pack('<I6I6', span[1], span[2]) end
  end
  if k.missed == 0 and k.gap == 0 and #out == 1 then
    redis.call('DEL', k.key)
    return false
  end
  redis.call('SET', k.key, table.concat(out))
  return true
end

local function addOutside(k, position)
  local last = k.spans[#k.spans]
  if last and last[2] == position then last[2] = position + 1 else k.spans[#k.spans + 1] = {position, position + 1} end
end

-- Returns a message and its mark of lua/merge.lua with what stands before the line.
local function dress(m, mark, missed, since)
  if missed == 0 and not since then return m, mark end
  local first, extra = string.byte(m), ''
  if missed > 0 then first, extra = first + 8, struct.pack('<I4', missed) end
  if since then first, extra = first + 16, extra .. struct.pack('<I5', since) end
  if mark then
    local how, body = struct.unpack('<I1I4', mark)
    mark = struct.pack('<I1I4', how + 8, body + #extra) .. string.sub(mark, 6)
  end
  return string.char(first) .. string.sub(m, 2, 17) .. extra .. string.sub(m, 18), mark
end

-- Returns a message that a channel with marks takes, as it is kept.
local function markedAs(k, m, mark, since)
  local missed = k.missed
  k.missed, k.gap = 0, 0
  return dress(m, mark, missed, since)
end

-- Returns what a message and the newest one of the queue become, as it is kept. k may be nil. dressed tells that something stands
-- before the line of the newest one.
local function wholeAs(k, queue, whole, mark, dressed)
  local missed, since = 0, nil
  if dressed then
    local older, at = redis.call('LINDEX', queue, -1), 18
    local first = string.byte(older)
    if math.floor(first / 8) % 2 == 1 then
      missed = struct.unpack('<I4', older, at)
      at = at + 4
    end
    if first >= 16 then since = struct.unpack('<I5', older, at) end
  end
  if k then
    missed = missed + k.missed
    k.missed, k.gap = 0, 0
  end
  return dress(whole, mark, missed, since)
end

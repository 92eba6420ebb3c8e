-- Appends messages to channels, in one pass for many producers.
-- KEYS: the states of the channels, each once; last the counters.
-- ARGV: 1 as always, 2 this node, 3 the items, 4 the memory in use in other scopes, 5 what the messages take, then the messages.
-- Returns 0 if all is taken and nothing is a duplicate. Else a string with three values for each item: status (0 taken, 1 the
-- channel is full, 2 the memory is used up, 3 held, 4 no such channel), how many are taken, and how many of them are
-- duplicates.
local ITEM, SIZE = '<I2I2I2I4I5I7c6', 28 -- channel, first message, messages, buffer, hold, memory, number
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local channels, states = #KEYS - 1, nil
if channels == 1 then states = {call('GET', KEYS[1])} else states = call('MGET', _G.unpack(KEYS, 1, channels)) end

local all, frames, plain, out = {}, {}, true, {}
local counters = KEYS[#KEYS]
-- What is refused is taken off again.
local wanted, added, addedBytes = tonumber(ARGV[5]), 0, 0
local used = ARGV[4] + call('HINCRBY', counters, 'bytes', wanted) - wanted

local function part(i, letter) return string.sub(KEYS[i], 1, -18) .. letter .. string.sub(KEYS[i], -16) end

local function channel(i)
  local c = all[i]
  if c == nil then
    local s = states[i]
    if not s then all[i] = false return false end
    c = {add = {}, keys = false, newKeys = 0}
    c.head, c.len, c.inflight, c.sent, c.held, c.bytes, c.ahead, c.node, c.fence, c.flags = unpack('<I6I3I3I3I3I5I3c8I4I1', s)
    c.sent0 = c.sent
    all[i] = c
  end
  return c
end

local function duplicate(i, c, id)
  if not c.keys then c.keys = call('GET', part(i, 'k')) or '' end
  local keys, at = c.keys, 1
  while true do
    at = string.find(keys, id, at, true)
    if not at then return false end
    if at % 8 == 1 then return true end
    at = at + 1
  end
end

local function hold(i, c, first, last, buffer, time, memory, number)
  local id, size = ARGV[2] .. number, 0
  for j = first, last do size = size + #ARGV[j] + OVERHEAD end
  if call('HINCRBY', counters, 'heldbytes', size) - size >= memory / 16 then
    call('HINCRBY', counters, 'heldbytes', -size)
    return false
  end
  local p = part(i, 'p')
  for j = first, last do call('HSET', p, id .. pack('<I2', j - first), ARGV[j]) end
  -- The node withdraws the call itself when its time is up. The rest is for a node that is gone.
  call('HSET', p, id, pack('<I6I4I7I2I2I2I6', now() + time + 5000, buffer, memory, 0, last - first + 1, 0, size))
  call('RPUSH', part(i, 'w'), id)
  call('HINCRBY', counters, 'held', 1)
  c.held = c.held + 1
  return true
end

for item = 1, #ARGV[3] / SIZE do
  local i, j, count, buffer, time, memory, number = unpack(ITEM, ARGV[3], (item - 1) * SIZE + 1)
  local c = channel(i)
  local status, first, duplicates, size = 0, j, 0, 0
  if not c then
    status = 4
  else
    local last, add, before = j + count - 1, c.add, #c.add
    while j <= last do
      local m = ARGV[j]
      local keyed = string.byte(m) == 1
      if keyed and duplicate(i, c, string.sub(m, 2, 9)) then
        duplicates = duplicates + 1
      elseif c.held > 0 or c.len - c.inflight >= buffer then
        status = 1
        break
      elseif used + addedBytes + size >= memory then
        status = 2
        break
      else
        add[#add + 1] = m
        if keyed then
          c.keys, c.newKeys = c.keys .. string.sub(m, 2, 9), c.newKeys + 1
        end
        if c.flags % 2 == 1 and c.sent == c.len and c.sent - c.inflight < c.ahead then
          local f = frames[c.node]
          if not f then f = {}; frames[c.node] = f end
          local at = string.sub(KEYS[i], -16) .. pack('<I4I6', c.fence, c.head + c.len)
          if #m > PUSHED then
            f[#f + 1] = frame('w', at)
          else
            f[#f + 1] = pack('<c1I4', 'm', 26 + #m) .. at .. m
            c.sent = c.sent + 1
          end
        end
        c.len, size = c.len + 1, size + #m + OVERHEAD
      end
      j = j + 1
    end
    c.bytes, added, addedBytes = c.bytes + size, added + #add - before, addedBytes + size
    if status ~= 0 then
      -- The reader may have taken more than its node has reported.
      local lags = c.flags % 2 == 1 and c.sent > c.inflight
      if lags then push(c.node, 'r', string.sub(KEYS[i], -16) .. pack('<I4', c.fence)) end
      if time == 0 and lags and status == 1 then time = 100 end
      if time > 0 then
        if hold(i, c, j, last, buffer, time, memory, number) then
          if status == 2 then call('SADD', string.sub(counters, 1, -2) .. 'm', string.sub(KEYS[i], -16)) end
          status = 3
        else
          status = 2
        end
      end
    end
  end
  if status ~= 0 or duplicates > 0 then plain = false end
  out[item] = pack('<I1I2I2', status, j - first, duplicates)
end

local function save(i, c)
  call('SETRANGE', KEYS[i], 6, pack('<I3I3I3I3I5', c.len, c.inflight, c.sent, c.held, c.bytes))
end

for i, c in pairs(all) do
  if c then
    for j = 1, #c.add, 1000 do call('RPUSH', part(i, 'q'), _G.unpack(c.add, j, math.min(#c.add, j + 999))) end
    if c.newKeys > 0 then
      local keep = 8 * (256 + c.len)
      if #c.keys >= 2 * keep then
        call('SET', part(i, 'k'), string.sub(c.keys, -keep))
      else
        call('APPEND', part(i, 'k'), string.sub(c.keys, -8 * c.newKeys))
      end
    end
    save(i, c)
  end
end
for node, f in pairs(frames) do
  if call('SPUBLISH', ARGV[1] .. node, table.concat(f)) == 0 then -- that node is gone
    for i, c in pairs(all) do
      if c and c.node == node and c.sent ~= c.sent0 then
        c.sent = c.sent0
        save(i, c)
      end
    end
  end
end
if added > 0 then call('HINCRBY', counters, 'messages', added) end
if addedBytes ~= wanted then call('HINCRBY', counters, 'bytes', addedBytes - wanted) end
if plain then return 0 end
return table.concat(out)

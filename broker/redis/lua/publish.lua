-- Appends messages to channels, in one pass for many producers. This is the script that matters: it makes few calls and few
-- strings.
-- KEYS: the counters, the states of the channels, their queues.
-- ARGV: 1 as always, 2 this node, 3 the items, 4 the memory in use in other scopes, 5 what the messages take, then the messages.
-- The items are, for each channel, their number and then each of them.
-- Returns 0 if all is taken and nothing is a duplicate. Else a string with three values for each item: status (0 taken, 1 the
-- channel is full, 2 the memory is used up, 3 held, 4 no such channel), how many are taken, and how many of them are
-- duplicates, have replaced another message, and were appended to one.
local call, pack, unpack, byte, sub = redis.call, struct.pack, struct.unpack, string.byte, string.sub
local KEYS, ARGV = KEYS, ARGV
local channels, counters, items = (#KEYS - 1) / 2, KEYS[1], ARGV[3]
local states
if channels == 1 then states = {call('GET', KEYS[2])} else states = call('MGET', _G.unpack(KEYS, 2, channels + 1)) end
-- What is refused is taken off again.
local wanted, added, addedBytes = tonumber(ARGV[5]), 0, 0
local used = ARGV[4] + call('HINCRBY', counters, 'bytes', ARGV[5]) - wanted
local frames, out, number, at = {}, nil, 0, 1

-- The outcome of an item that is not simply taken.
local function note(status, taken, duplicates, replaced, appended)
  if not out then
    out = {}
    local next, i = 1, 1
    while i < number do
      local count
      count, next = unpack('<I2', items, next)
      for _ = 1, count do
        local _, messages
        _, messages, _, _, _, _, next = unpack('<I2I2I4I5I7c6', items, next)
        if i < number then out[i] = pack('<I1I2I2I2I2', 0, messages, 0, 0, 0) end
        i = i + 1
      end
    end
  end
  out[number] = pack('<I1I2I2I2I2', status, taken, duplicates, replaced, appended)
end

local function key(i, letter) return sub(KEYS[i + 1], 1, -18) .. letter .. sub(KEYS[i + 1], -16) end

-- Keeps messages of a call that must wait. It fails if too much waits already.
local function hold(i, first, last, buffer, time, memory, number)
  local id, size = ARGV[2] .. number, 0
  for j = first, last do size = size + #ARGV[j] + OVERHEAD end
  if call('HINCRBY', counters, 'heldbytes', size) - size >= memory / 16 then
    call('HINCRBY', counters, 'heldbytes', -size)
    return false
  end
  local p = key(i, 'p')
  for j = first, last do call('HSET', p, id .. pack('<I2', j - first), ARGV[j]) end
  -- The node withdraws the call itself when its time is up. The rest is for a node that is gone.
  call('HSET', p, id, pack('<I6I4I7I2I2I2I6', now() + time + 5000, buffer, memory, 0, last - first + 1, 0, size))
  call('RPUSH', key(i, 'w'), id)
  call('HINCRBY', counters, 'held', 1)
  return true
end

local function append(queue, first, last)
  if first == last then return call('RPUSH', queue, ARGV[first]) end
  call('RPUSH', queue, _G.unpack(ARGV, first, last))
end

for i = 1, channels do
  local s, count = states[i], nil
  count, at = unpack('<I2', items, at)
  local head, len, inflight, sent, held, bytes, ahead, node, fence, flags
  local f, keys, fresh = nil, nil, nil -- keys: the set of idempotency keys; fresh: those that are new
  local queue, from = KEYS[channels + i + 1], nil -- from: the first message that is to be appended
  if s then
    head, len, inflight, sent, held, bytes, ahead, node, fence, flags = unpack('<I6I3I3I3I3I5I1c8I4I1', s)
    if flags % 2 == 1 then
      f = frames[node]
      if not f then
        f = {}
        frames[node] = f
      end
    end
  end
  for _ = 1, count do
    local j, messages, buffer, time, memory, name
    j, messages, buffer, time, memory, name, at = unpack('<I2I2I4I5I7c6', items, at)
    number = number + 1
    if not s then
      note(4, 0, 0, 0, 0)
    else
      local first, last, status, duplicates, size, taken, replaced, appended = j, j + messages - 1, 0, 0, 0, 0, 0, 0
      from = nil
      while j <= last do
        local m = ARGV[j]
        local kind = byte(m)
        local mark, whole, older -- if it may be merged
        if kind > 1 then
          if from then append(queue, from, j - 1) end
          from = nil
          m, mark, whole, older = merge(m, queue, key(i, 'g'), held == 0 and len > math.max(inflight, sent) and head + len - 1)
        end
        local full = (held > 0 or len - inflight >= buffer and not whole) and 1 or used + addedBytes + size >= memory and 2
        local id, duplicate = nil, false
        if kind % 2 == 1 then
          if not keys then keys, fresh = key(i, 'i'), {} end
          id = keyOf(m)
          if full then duplicate = call('SISMEMBER', keys, id) == 1 else duplicate = call('SADD', keys, id) == 0 end
        end
        if duplicate then
          if from then append(queue, from, j - 1) end
          from, duplicates = nil, duplicates + 1
        elseif full then
          status = full
          break
        elseif whole then
          call('LSET', queue, -1, whole)
          keepMark(key(i, 'g'), head + len - 1, #whole, mark)
          taken, size = taken + 1, size + #whole - older
          if kind < 4 then replaced = replaced + 1 else appended = appended + 1 end
          if id then fresh[#fresh + 1] = id end
        else
          taken = taken + 1
          if mark then
            call('RPUSH', queue, m)
            keepMark(key(i, 'g'), head + len, #m, mark)
          else
            from = from or j
          end
          if id then fresh[#fresh + 1] = id end
          if f and sent == len and sent - inflight < ahead then
            if #m > PUSHED or mark and sent - inflight >= mergeAhead(ahead) then
              f[#f + 1] = pack('<c1I4I4I6', 'w', 10, fence, head + len)
            else
              local n = #f
              f[n + 1], f[n + 2] = pack('<c1I4I4I6', 'm', 10 + #m, fence, head + len), m
              sent = sent + 1
            end
          end
          len, size = len + 1, size + #m + OVERHEAD
        end
        j = j + 1
      end
      if from then append(queue, from, j - 1) end
      bytes, added, addedBytes = bytes + size, added + taken - replaced - appended, addedBytes + size
      if status ~= 0 then
        -- The reader may have taken more than its node has reported.
        local lags = flags % 2 == 1 and sent > inflight
        if lags then f[#f + 1] = pack('<c1I4I4', 'r', 4, fence) end
        if time == 0 and lags and status == 1 then time = 100 end
        if time > 0 then
          if hold(i, j, last, buffer, time, memory, name) then
            if status == 2 then call('SADD', sub(counters, 1, -2) .. 'm', sub(KEYS[i + 1], -16)) end
            status, held = 3, held + 1
          else
            status = 2
          end
        end
      end
      if out or status ~= 0 or duplicates + replaced + appended > 0 then
        note(status, j - first, duplicates, replaced, appended)
      end
    end
  end
  if s then
    if keys and #fresh > 0 then
      local list = key(i, 'k')
      local extra = call('RPUSH', list, _G.unpack(fresh)) - REMEMBERED - len
      if extra > 32 then call('SREM', keys, _G.unpack(call('LPOP', list, extra))) end
    end
    call('SETRANGE', KEYS[i + 1], '6', pack('<I3I3I3I3I5', len, inflight, sent, held, bytes))
  end
end
if added > 0 then call('HINCRBY', counters, 'messages', added) end
if addedBytes ~= wanted then call('HINCRBY', counters, 'bytes', addedBytes - wanted) end
for node, f in pairs(frames) do
  if #f > 0 and call('SPUBLISH', ARGV[1] .. node, table.concat(f)) == 0 then
    -- That node is gone, so it was given nothing.
    for i = 1, channels do
      local s = states[i]
      if s and sub(s, 25, 32) == node then call('SETRANGE', KEYS[i + 1], '12', sub(s, 13, 15)) end
    end
  end
end
if out then return table.concat(out) end
return 0

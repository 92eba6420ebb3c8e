-- Appends messages to channels, in one pass for many producers. This is the script that matters: it makes few calls and few
-- strings. Redis' Lua reads each byte of a new string once more.
-- KEYS: the counters, the states of the channels, their queues.
-- ARGV: 1 as always, 2 this node, 3 the items, 4 limits, 5 numbers of the items, 6 the memory in use in other scopes, 7 what the
-- messages take, 8 how many messages follow if any has an idempotency key, else 0, 9 how many if channels share some, else 0,
-- 10 spans of the channels. Then the messages, and if any has a key, the key of each: see keyOf.
-- An item is 5 bytes: twice the number of its limits, and 1 if the next item is for the same channel; where in ARGV its messages
-- begin; how many it has. Limits are 16 bytes: buffer, how long the call may wait, memory.
-- A span is 7 bytes: where in ARGV the messages of all items of a channel begin; how many these are, or 0 if they do not stand
-- together, some have a key, may be merged or are large, or limits differ; how many items; twice the number of their limits.
-- Returns 0 if all is taken and nothing is a duplicate. Else a string with three values for each item: status (0 taken, 1 the
-- channel is full, 2 the memory is used up, 3 held, 4 no such channel), how many are taken, and how many of them are
-- duplicates, have replaced another message, and were appended to one.
local call, pack, unpack, byte, sub = redis.call, struct.pack, struct.unpack, string.byte, string.sub
local KEYS, ARGV = KEYS, ARGV
local channels, counters, items, spans = (#KEYS - 1) / 2, KEYS[1], ARGV[3], ARGV[10]
local keyed, shared = tonumber(ARGV[8]), tonumber(ARGV[9])
local MESSAGE, SHARED, WAKE, REPORT = byte('mbwr', 1, 4) -- kinds of frames
local CONCAT = 8192 -- Lua makes longer strings twice
local states
if channels == 1 then states = {call('GET', KEYS[2])} else states = call('MGET', _G.unpack(KEYS, 2, channels + 1)) end
-- What is refused is taken off again.
local wanted, added, addedBytes = tonumber(ARGV[7]), 0, 0
local used = ARGV[6] + call('HINCRBY', counters, 'bytes', ARGV[7]) - wanted
local frames, groups, out, number = {}, {}, nil, 0
local sizes = {} -- of spans
local limits, buffer, time, memory -- of the item before

-- The outcome of an item that is not simply taken.
local function note(status, taken, duplicates, replaced, appended)
  if not out then
    out = {}
    for i = 1, number - 1 do
      local low, high = byte(items, i * 5 - 1, i * 5)
      out[i] = pack('<I1I2I2I2I2', 0, low + high * 256, 0, 0, 0)
    end
  end
  out[number] = pack('<I1I2I2I2I2', status, taken, duplicates, replaced, appended)
end

local function key(i, letter) return sub(KEYS[i + 1], 1, -18) .. letter .. sub(KEYS[i + 1], -16) end

-- Keeps messages of a call that must wait. It fails if too much waits already.
local function hold(i, first, last, wait)
  local id, size = ARGV[2] .. sub(ARGV[5], number * 6 - 5, number * 6), 0
  for j = first, last do size = size + #ARGV[j] + OVERHEAD end
  if call('HINCRBY', counters, 'heldbytes', size) - size >= memory / 16 then
    call('HINCRBY', counters, 'heldbytes', -size)
    return false
  end
  local p = key(i, 'p')
  for j = first, last do call('HSET', p, id .. pack('<I2', j - first), ARGV[j]) end
  -- The node withdraws the call itself when its time is up. The rest is for a node that is gone.
  call('HSET', p, id, pack('<I6I4I7I2I2I2I6', now() + wait + 5000, buffer, memory, 0, last - first + 1, 0, size))
  call('RPUSH', key(i, 'w'), id)
  call('HINCRBY', counters, 'held', 1)
  return true
end

-- Pushes frames, of which each is two strings, to a node. It reports false if nobody is there.
local function give(node, f)
  local first, size, n = 1, 0, #f
  for k = 1, n, 2 do
    local more = #f[k] + #f[k + 1]
    if size > 0 and size + more > CONCAT then
      if call('SPUBLISH', ARGV[1] .. node, table.concat(f, '', first, k - 1)) == 0 then return false end
      first, size = k, 0
    end
    size = size + more
  end
  return n == 0 or call('SPUBLISH', ARGV[1] .. node, table.concat(f, '', first, n)) > 0
end

local function append(queue, first, last)
  if first == last then return call('RPUSH', queue, ARGV[first]) end
  call('RPUSH', queue, _G.unpack(ARGV, first, last))
end

-- Remembers the key of a message that was merged with a newer one. The queue has only the key of that one.
local function letGo(i, olderKey)
  local list = key(i, 'k')
  local extra = call('RPUSH', list, olderKey) - REMEMBERED
  if extra > 32 then call('SREM', key(i, 'i'), _G.unpack(call('LPOP', list, extra))) end
end

-- Names messages that stand together.
local function spanOf(first, count) return first * 4096 + count end

-- Adds a place in a channel to those to which messages are pushed.
local function share(node, first, count, place)
  local g = groups[node]
  if not g then
    g = {}
    groups[node] = g
  end
  local span = spanOf(first, count)
  local places = g[span]
  if places then places[#places + 1] = place else g[span] = {place} end
end

-- What messages that stand together take.
local function sizeOf(first, count)
  if count == 1 then return #ARGV[first] + OVERHEAD end
  local span = spanOf(first, count)
  local size = sizes[span]
  if not size then
    size = count * OVERHEAD
    for j = first, first + count - 1 do size = size + #ARGV[j] end
    sizes[span] = size
  end
  return size
end

local function readLimits(which)
  if which ~= limits then
    limits = which
    buffer, time, memory = unpack('<I4I5I7', ARGV[4], limits * 8 + 1)
  end
end

for i = 1, channels do
  local s, more = states[i], nil
  local head, len, inflight, sent, held, bytes, ahead, node, fence, flags
  local f, keys, k = nil, nil, nil -- keys: the set of idempotency keys; k: see lua/marks.lua
  local queue, from, to = KEYS[channels + i + 1], nil, nil -- from, to: messages that are to be appended
  local idle = false -- nobody reads, and nothing is pending
  if s then
    head, len, inflight, sent, held, bytes, ahead, node, fence, flags = unpack('<I6I3I3I3I3I5I1c8I4I1', s)
    if flags >= 64 and math.floor(flags / 64) % 2 == 1 then k = readMarks(key(i, 'v')) end
    if flags % 2 == 1 then
      f = frames[node]
      if not f then
        f = {}
        frames[node] = f
      end
    else
      idle = len == inflight
    end
  end
  local b1, b2, c1, c2, n1, n2, which = byte(spans, i * 7 - 6, i * 7)
  local begin, count = b1 + b2 * 256, c1 + c2 * 256
  local pushes, size = f and sent == len, 0
  if count > 0 and s and not out and held == 0 and not k then
    readLimits(which)
    size = sizeOf(begin, count)
  else
    count = 0
  end
  if count > 0 and len - inflight + count <= buffer and used + addedBytes + size < memory and
    (not pushes or sent - inflight + count <= ahead) then
    -- The usual case: all is taken.
    append(queue, begin, begin + count - 1)
    if pushes then
      if shared > 0 then
        share(node, begin, count, pack('<I4I6', fence, head + len))
      else
        for j = 0, count - 1 do
          local n, m = #f, ARGV[begin + j]
          f[n + 1], f[n + 2] = pack('<I1I4I4I6', MESSAGE, 10 + #m, fence, head + len + j), m
        end
      end
      sent = sent + count
    end
    len, bytes, added, addedBytes, number = len + count, bytes + size, added + count, addedBytes + size, number + n1 + n2 * 256
    more = 0
  end
  while more ~= 0 do
    number = number + 1
    local a, b, c, d, e = byte(items, number * 5 - 4, number * 5)
    more = a % 2
    readLimits(a - more)
    if not s then
      note(4, 0, 0, 0, 0)
    else
      local j = b + c * 256
      local first, last, status, duplicates, size, taken, replaced, appended = j, j + d + e * 256 - 1, 0, 0, 0, 0, 0, 0
      while j <= last do
        local m = ARGV[j]
        local mark, whole, older, olderKey, dressed -- if it may be merged
        local kind = byte(m)
        if kind > 1 then
          if from then append(queue, from, to) end
          from = nil
          m, mark, whole, older, olderKey, dressed = merge(m, queue, key(i, 'g'), held == 0 and len > math.max(inflight, sent) and
            not (k and k.gap == 1 and kind > 3) and head + len - 1)
        end
        local pending = len - inflight
        if k then pending = pending - outsideOf(k, head + inflight) end
        local full = (held > 0 or pending >= buffer and not whole) and 1 or used + addedBytes + size >= memory and 2
        local duplicate = false
        if keyed > 0 and ARGV[j + keyed] ~= '' then
          keys = keys or key(i, 'i')
          duplicate = full and call('SISMEMBER', keys, ARGV[j + keyed]) == 1 or not full and call('SADD', keys, ARGV[j + keyed]) == 0
        end
        if duplicate then
          duplicates = duplicates + 1
        elseif full then
          status = full
          break
        elseif whole then
          if k or dressed then whole, mark = wholeAs(k, queue, whole, mark, dressed) end
          call('LSET', queue, -1, whole)
          keepMark(key(i, 'g'), head + len - 1, #whole, mark)
          taken, size = taken + 1, size + #whole - older
          if olderKey ~= '' then letGo(i, olderKey) end
          if kind < 4 then replaced = replaced + 1 else appended = appended + 1 end
        else
          taken = taken + 1
          local own = mark or k
          if k then m, mark = markedAs(k, m, mark) end
          if own then
            if from then append(queue, from, to) end
            from = nil
            call('RPUSH', queue, m)
            if mark then keepMark(key(i, 'g'), head + len, #m, mark) end
          else
            if from and j ~= to + 1 then
              append(queue, from, to)
              from = nil
            end
            from, to = from or j, j
          end
          if f and sent == len and sent - inflight < ahead then
            if #m > PUSHED or mark and sent - inflight >= mergeAhead(ahead) then
              f[#f + 1] = pack('<I1I4I4I6', WAKE, 10, fence, head + len)
              f[#f + 1] = ''
            else
              if shared > 0 and not own then
                share(node, j, 1, pack('<I4I6', fence, head + len))
              else
                local n = #f
                f[n + 1], f[n + 2] = pack('<I1I4I4I6', MESSAGE, 10 + #m, fence, head + len), m
              end
              sent = sent + 1
            end
          end
          len, size = len + 1, size + #m + OVERHEAD
        end
        j = j + 1
      end
      bytes, added, addedBytes = bytes + size, added + taken - replaced - appended, addedBytes + size
      if status ~= 0 then
        -- The reader may have taken more than its node has reported.
        local lags, wait = flags % 2 == 1 and sent > inflight, time
        if lags then
          f[#f + 1] = pack('<I1I4I4', REPORT, 4, fence)
          f[#f + 1] = ''
        end
        if wait == 0 and lags and status == 1 then wait = 100 end
        if wait > 0 then
          if hold(i, j, last, wait) then
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
  if from then append(queue, from, to) end
  if s then call('SETRANGE', KEYS[i + 1], '6', pack('<I3I3I3I3I5', len, inflight, sent, held, bytes)) end
  if idle and len > inflight and unread(inflight, inflight, flags, unpack('<I3', s, STATE - 2)) == 0 then
    noteWaiting(sub(KEYS[i + 1], 1, -18), sub(KEYS[i + 1], -16), now())
  end
  if k and not writeMarks(k, head + inflight) then call('SETRANGE', KEYS[i + 1], 36, pack('<I1', flags - 64)) end
end
if added > 0 then call('HINCRBY', counters, 'messages', added) end
if addedBytes ~= wanted then call('HINCRBY', counters, 'bytes', addedBytes - wanted) end
for node, f in pairs(frames) do
  local group, order = groups[node] or {}, {}
  for span in pairs(group) do order[#order + 1] = span end
  if order[2] then table.sort(order) end -- so a reader gets its messages in order
  for _, span in ipairs(order) do
    local count, places = span % 4096, group[span]
    local first, messages = (span - count) / 4096, {}
    for j = 0, count - 1 do
      local m = ARGV[first + j]
      messages[2 * j + 1], messages[2 * j + 2] = pack('<I4', #m), m
    end
    local n = #f
    f[n + 1] = pack('<I1I4I2I2', SHARED, 4 + 10 * #places + sizeOf(first, count) + (4 - OVERHEAD) * count, #places, count) ..
      table.concat(places)
    f[n + 2] = table.concat(messages)
  end
  if not give(node, f) then
    -- That node is gone, so it was given nothing.
    for i = 1, channels do
      local s = states[i]
      if s and sub(s, 25, 32) == node then call('SETRANGE', KEYS[i + 1], '12', sub(s, 13, 15)) end
    end
  end
end
if out then return table.concat(out) end
return 0

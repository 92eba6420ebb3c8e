-- Part of the scripts that work on one channel. KEYS[1] is its state, KEYS[2] the counters, and KEYS[3] the set of channels
-- in which producers wait for memory.
local base, x, state = string.sub(KEYS[1], 1, -18), string.sub(KEYS[1], -16), KEYS[1]
local function key(letter) return base .. letter .. x end

local c

-- Loads the state, unless the caller has done so.
local function load(s)
  s = s or redis.call('GET', state)
  if not s then return false end
  c = {}
  c.head, c.len, c.inflight, c.sent, c.held, c.bytes, c.ahead, c.node, c.fence, c.flags, c.settled, c.created, c.read, c.ttl,
    c.unconfirmed = struct.unpack(ALL, s)
  c.messages0, c.inflight0, c.bytes0 = c.len, c.inflight, c.bytes
  c.unread0 = c.flags % 2 == 0 and unread(c.len, c.inflight, c.flags, c.unconfirmed)
  return true
end

local function hasReader() return c.flags % 2 == 1 end
local function flag(bit) return math.floor(c.flags / bit) % 2 == 1 end
local function set(bit) if not flag(bit) then c.flags = c.flags + bit end end

-- Returns the marks, or nil if there are none.
local function marks()
  if not c.marks and flag(64) then c.marks = readMarks(key('v')) end
  return c.marks
end

local function ensureMarks()
  c.marks = marks() or {key = key('v'), missed = 0, gap = 0, spans = {}}
  return c.marks
end

-- Writes the state, and adds to the counters what has changed. Returns 1 if memory was freed for which producers wait.
local function save()
  if c.marks then
    if writeMarks(c.marks, c.head + c.inflight) then set(64) elseif flag(64) then c.flags = c.flags - 64 end
  end
  redis.call('SETRANGE', state, 0, struct.pack(ALL, c.head, c.len, c.inflight, c.sent, c.held, c.bytes, c.ahead, c.node,
    c.fence, c.flags, c.settled, c.created, c.read, c.ttl, c.unconfirmed))
  if hasReader() then
    if c.unread0 and c.unread0 > 0 then redis.pcall('ZREM', base .. 'r', x) end
  elseif (c.unread0 or 0) <= 0 and unread(c.len, c.inflight, c.flags, c.unconfirmed) > 0 then
    noteWaiting(base, x, now())
  end
  if c.len ~= c.messages0 then redis.call('HINCRBY', KEYS[2], 'messages', c.len - c.messages0) end
  if c.inflight ~= c.inflight0 then redis.call('HINCRBY', KEYS[2], 'inflight', c.inflight - c.inflight0) end
  if c.bytes == c.bytes0 then return 0 end
  redis.call('HINCRBY', KEYS[2], 'bytes', c.bytes - c.bytes0)
  return c.bytes < c.bytes0 and redis.call('EXISTS', KEYS[3]) or 0
end

local function tellReader(kind) return push(c.node, kind, struct.pack('<I4', c.fence) .. x) end

-- Lets go of the oldest k messages. size is what they take, and id names the last of them.
local function settle(k, size, id)
  if k <= 0 then return end
  if k >= c.len then
    redis.call('DEL', key('q'))
    c.bytes = 0
  else
    redis.call('LTRIM', key('q'), k, -1)
    c.bytes = math.max(0, c.bytes - size)
  end
  c.head, c.len = c.head + k, c.len - k
  c.inflight, c.sent = math.max(0, c.inflight - k), math.max(0, c.sent - k)
  c.unconfirmed = math.max(0, c.unconfirmed - k)
  c.settled = id
end

-- Remembers the keys of messages that were let go, which stand in a list from an index on, and forgets the oldest ones.
local function remember(keys, first)
  for at = first, #keys, 1000 do
    local extra = redis.call('RPUSH', key('k'), unpack(keys, at, math.min(#keys, at + 999))) - REMEMBERED
    if extra > 32 then redis.call('SREM', key('i'), unpack(redis.call('LPOP', key('k'), extra))) end
  end
end

-- Calls f with each message from index first on and its index, until f returns false. It reads few large messages at once.
local function each(first, last, f)
  local step = math.max(1, math.floor(262144 / (c.bytes / math.max(1, c.len) + 1)))
  while first <= last do
    local ms = redis.call('LRANGE', key('q'), first, math.min(last, first + step - 1))
    if #ms == 0 then return end
    for i = 1, #ms do
      if f(ms[i], first + i - 1) == false then return end
    end
    first = first + #ms
  end
end

-- Appends to out what the reader's node does not have yet, from index first on.
local function fetch(out, first, count, maxBytes)
  local size, got = 0, 0
  each(first, math.min(c.len, first + count) - 1, function(m, i)
    if i == c.len - 1 and string.byte(m) % 8 > 1 and i - c.inflight >= mergeAhead(c.ahead) then return false end
    if got > 0 and size + #m > maxBytes then return false end
    size, got = size + #m, got + 1
    out[#out + 1] = m
  end)
  c.sent = math.max(c.sent, first + got)
end

-- Whether a message has the key of one that the channel holds, or has let go not long ago.
local function duplicate(m)
  return string.byte(m) % 2 == 1 and redis.call('SISMEMBER', key('i'), keyOf(m)) == 1
end

local function rememberKey(m)
  if string.byte(m) % 2 == 1 then redis.call('SADD', key('i'), keyOf(m)) end
end

-- Pushes a message to the reader's node, for a fence and a position.
local function pushMessage(at, m) return push(c.node, 'm', at .. m) > 0 end

-- Keeps a gap while calls wait, for what waits is older than what was missed meanwhile.
local function keepGap(k, gap)
  if c.held > 0 then k.gap = gap end
end

-- Appends a message. If it does not count toward the buffer, since says when the channel has got it.
local function append(m, mark, since)
  local k = since and ensureMarks() or marks()
  if k then
    local gap = k.gap
    m, mark = markedAs(k, m, mark, since)
    keepGap(k, gap)
    if since then addOutside(k, c.head + c.len) end
  end
  redis.call('RPUSH', key('q'), m)
  rememberKey(m)
  if mark then keepMark(key('g'), c.head + c.len, #m, mark) end
  if hasReader() and c.sent == c.len and c.sent - c.inflight < c.ahead then
    local at = struct.pack('<I4I6', c.fence, c.head + c.len)
    if #m > PUSHED or mark and c.sent - c.inflight >= mergeAhead(c.ahead) then
      push(c.node, 'w', at)
    elseif pushMessage(at, m) then
      c.sent = c.sent + 1
    end
  end
  c.len, c.bytes = c.len + 1, c.bytes + #m + OVERHEAD
end

-- merge, for this channel.
local function mergeHere(m)
  local gap = string.byte(m) > 3 and marks() and c.marks.gap == 1
  return merge(m, key('q'), key('g'), c.len > math.max(c.inflight, c.sent) and not gap and c.head + c.len - 1)
end

local function appendWhole(whole, older, mark, olderKey, dressed)
  local k = marks()
  local gap = k and k.gap
  if k or dressed then whole, mark = wholeAs(k, key('q'), whole, mark, dressed) end
  if k then keepGap(k, gap) end
  redis.call('LSET', key('q'), -1, whole)
  if olderKey ~= '' then remember({olderKey}, 1) end
  rememberKey(whole)
  keepMark(key('g'), c.head + c.len - 1, #whole, mark)
  c.bytes = c.bytes + #whole - older
end

-- Whether there is room for a message in a buffer.
local function room(buffer)
  local k = marks()
  return c.len - c.inflight - (k and outsideOf(k, c.head + c.inflight) or 0) < buffer
end

-- Notes that a piece of a text may be missing after the newest message, and after those that wait.
local function noteGap()
  if c.len > c.inflight or c.held > 0 then ensureMarks().gap = 1 end
end

-- Notes that the channel has missed a message of a topic.
local function miss()
  if flag(32) then
    local k = ensureMarks()
    k.missed = k.missed + 1
  end
  noteGap()
end

-- Takes what there is room for of the messages of a waiting call. Returns how it ended: 0 all are taken, 1 the channel is
-- full, 2 the memory is used up.
local function take(id, w, used)
  while w.first < w.count do
    local field = id .. struct.pack('<I2', w.first)
    local m = redis.call('HGET', key('p'), field)
    local kept, mark, whole, older, olderKey, dressed = m, nil, nil, nil, nil, nil
    local outside = w.topic ~= '' and w.buffer == OUTSIDE
    if used and string.byte(m) > 1 then kept, mark, whole, older, olderKey, dressed = mergeHere(m) end
    if duplicate(m) then
      w.duplicates = w.duplicates + 1
    elseif not used then -- only duplicates are taken
      return 1
    elseif not whole and not outside and not room(w.buffer) then
      return 1
    elseif not outside and used + c.bytes - c.bytes0 >= w.memory then
      return 2
    elseif whole then
      appendWhole(whole, older, mark, olderKey, dressed)
      if string.byte(m) < 4 then w.replaced = w.replaced + 1 else w.appended = w.appended + 1 end
    else
      append(kept, mark, outside and now() or nil)
    end
    redis.call('HDEL', key('p'), field)
    redis.call('HINCRBY', KEYS[2], 'heldbytes', -(#m + OVERHEAD))
    w.first, w.size = w.first + 1, w.size - #m - OVERHEAD
  end
  return 0
end

-- Until when, buffer, memory, next message, messages, duplicates, bytes, and, unless it is new, replaced, appended. If the message
-- is one of a topic, 1 if it waits only until the reader's node has said what was taken, else 0, and the topic's name.
local WAITER = '<I6I4I7I2I2I2I6I2I2'
local WAITING = 33

local function waiter(id)
  local s = redis.call('HGET', key('p'), id)
  if not s then return nil end
  local w = {}
  w.deadline, w.buffer, w.memory, w.first, w.count, w.duplicates, w.size, w.replaced, w.appended =
    struct.unpack(WAITER, s .. '\0\0\0\0')
  w.brief, w.topic = string.sub(s, WAITING + 1, WAITING + 1), string.sub(s, WAITING + 2)
  return w
end

local function keepWaiter(id, w)
  redis.call('HSET', key('p'), id, struct.pack(WAITER, w.deadline, w.buffer, w.memory, w.first, w.count, w.duplicates, w.size,
    w.replaced, w.appended) .. w.brief .. w.topic)
end

-- Forgets a waiting call. The caller removes its id from the list.
local function forget(id, w)
  for i = w.first, w.count - 1 do redis.call('HDEL', key('p'), id .. struct.pack('<I2', i)) end
  redis.call('HDEL', key('p'), id)
  redis.call('HINCRBY', KEYS[2], 'held', -1)
  if w.size > 0 then redis.call('HINCRBY', KEYS[2], 'heldbytes', -w.size) end
  c.held = c.held - 1
end

-- The memory in use. elsewhere is that in other scopes.
local function memory(elsewhere) return tonumber(redis.call('HGET', KEYS[2], 'bytes') or 0) + elsewhere end

-- Admits waiting calls while there is room, first come first served. A call whose node has not
-- withdrawn it in time is dropped: that node is gone.
local function admit(elsewhere)
  if c.held == 0 then return end
  local t, used = now(), memory(elsewhere)
  while c.held > 0 do
    local id = redis.call('LINDEX', key('w'), 0)
    local w = id and waiter(id)
    if not w then
      c.held = 0
      redis.call('DEL', key('w'), key('p'))
      return
    end
    local how = 3
    if t <= w.deadline then how = take(id, w, used) end
    if how == 1 or how == 2 then
      if how == 2 then redis.call('SADD', KEYS[3], x) end
      keepWaiter(id, w)
      return
    end
    redis.call('LPOP', key('w'))
    forget(id, w)
    if how == 3 and w.topic ~= '' then miss() end
    push(string.sub(id, 1, 8), 'a', string.sub(id, 9) .. struct.pack('<I1I2I2I2I2', how, w.first, w.duplicates, w.replaced, w.appended))
  end
end

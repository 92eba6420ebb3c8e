-- Brings a message, or the end, to members of a topic: a walk. KEYS: 1 the topic's record in this scope, 2 and 3 as
-- lua/channel.lua says.
-- ARGV: 2 node, 3 the topic, 4 numbers, 5 the message, 6 which begins the names of all keys.
-- Steps: 1 begins the walk, 2 visits members, 4 ends the walk if all were visited, 8 ends it in any case, 16 only tells that it goes
-- on, 32 tells that all members have the end. All but 2 are for the home.
-- Returns a string. First the outcome: 1 all is well, 5 a later walk was here, or 10 less what beginWalk returns. Then the walk's
-- number, or how long it waits. Then 1 if all members of this scope were visited, and 2 if there are none. Then how many were visited,
-- have taken the message, have had it before, have replaced another one with it, have appended it, have missed it, and will not get
-- it from this call. Then in how many it waits, and how many are to be deleted. Then the ids of these two, the first with the number
-- of the call that waits. Then the other scopes, with the ids of their records. Then, if another walk that brings the end was broken
-- off and this one goes on with it, 65535 and its end.
local steps, kind, full, number, turn, first, buffer, hold, memory, elsewhere, keep, ttl, keptElsewhere =
  struct.unpack('<I1I1I1I7I6I6I4I5I7I7I7I5I7', ARGV[4])
local node, name, m, prefix = ARGV[2], ARGV[3], ARGV[5], ARGV[6]
local MOST = 100 -- members in one call
local HOLDS, DELETES = 1, 2
counters = KEYS[2]
scope = string.sub(counters, 1, -2)
local call, pack, sub = redis.call, struct.pack, string.sub
local id = node .. pack('<I6', turn)
local function does(step) return math.floor(steps / step) % 2 == 1 end

local n = {members = 0, accepted = 0, duplicates = 0, replaced = 0, appended = 0, missed = 0, full = 0}
local held, deleted, others, done, going = {}, {}, {}, 1, ''

local function reply(code, value)
  return pack('<I1I7I1I2I2I2I2I2I2I2I2I2', code, value, done, n.members, n.accepted, n.duplicates, n.replaced, n.appended,
    n.missed, n.full, #held, #deleted) .. table.concat(held) .. table.concat(deleted) .. table.concat(others) .. going
end

if does(1) then
  local code, more = beginWalk(name, id, m, kind == 1,
    {keep = keep, ttl = ttl, memory = memory, elsewhere = elsewhere, keptElsewhere = keptElsewhere})
  if code <= 0 then return reply(-code + 10, more or 0) end
  number = code
  if more then m, going = more, pack('<I2', 65535) .. more end
  local fields = call('HGETALL', scope .. 'H' .. name)
  for i = 1, #fields, 2 do
    if string.match(fields[i], '^s%d+$') then others[#others + 1] = pack('<I2', tonumber(sub(fields[i], 2))) .. fields[i + 1] end
  end
elseif does(16) and field(name, 'turn') == id then
  call('HSET', scope .. 'H' .. name, 'until', now() + TURN)
end

local mergeable, keyed = string.byte(m) > 1, string.byte(m) % 2 == 1
local messageKey = keyed and keyOf(m)
local used, added, addedBytes = 0, 0, 0
local frames, places, given = {}, {}, {} -- by node

-- Keeps a frame for a node, so that there are few pushes.
local function later(to, f)
  local fs = frames[to]
  if not fs then
    fs = {}
    frames[to] = fs
  end
  fs[#fs + 1] = f
end

-- Keeps the message with the calls that wait in the channel. Returns the id of the call.
local function wait(time, outside, brief)
  local size = #m + OVERHEAD
  if outside then
    call('HINCRBY', counters, 'heldbytes', size)
  elseif call('HINCRBY', counters, 'heldbytes', size) - size >= memory / 16 then
    call('HINCRBY', counters, 'heldbytes', -size)
    return false
  end
  local own = node .. pack('<I6', first + #held)
  call('HSET', key('p'), own .. pack('<I2', 0), m, own,
    pack(WAITER, now() + time + 5000, outside and OUTSIDE or buffer, memory, 0, 1, 0, size, 0, 0) .. (brief and '1' or '0') .. name)
  call('RPUSH', key('w'), own)
  call('HINCRBY', counters, 'held', 1)
  c.held = c.held + 1
  held[#held + 1] = sub(own, 9) .. x
  return own
end

-- Whether a message waits in the channel of which is tells that it is the one.
local function waits(is)
  for _, other in ipairs(c.held > 0 and call('LRANGE', key('w'), 0, -1) or {}) do
    local w = waiter(other)
    if w and w.topic ~= '' and is(w, other) then return true end
  end
end
local function isOfTopic(w) return w.topic == name end
local function isSame(w, other)
  local waiting = call('HGET', key('p'), other .. pack('<I2', w.first))
  return waiting and sub(waiting, 2, 17) == sub(m, 2, 17)
end

-- Brings the end to the member at hand.
local function close()
  if not flag(32) then return end
  if waits(isOfTopic) then
    wait(100000000000, true)
  else
    append(m, nil, now())
    n.accepted = n.accepted + 1
  end
end

-- Brings the message to the member at hand.
local function offer()
  if duplicate(m) then
    n.accepted, n.duplicates = n.accepted + 1, n.duplicates + 1
    return
  end
  local kept, mark, whole, older, olderKey, dressed = m, nil, nil, nil, nil, nil
  if mergeable then kept, mark, whole, older, olderKey, dressed = mergeHere(m) end
  if c.held == 0 and (whole or room(buffer)) and used + addedBytes < memory then
    local before = c.bytes
    if whole then
      appendWhole(whole, older, mark, olderKey, dressed)
      if string.byte(m) < 4 then n.replaced = n.replaced + 1 else n.appended = n.appended + 1 end
    else
      append(kept, mark)
    end
    used, n.accepted = used + c.bytes - before, n.accepted + 1
    return
  end
  -- The reader may have taken more than its node has reported.
  local lags = hasReader() and c.sent > c.inflight
  if full == HOLDS and hold > 0 and wait(hold) then
    if whole or room(buffer) then call('SADD', KEYS[3], x) end -- memory is what is missing
    if lags then later(c.node, frame('r', pack('<I4', c.fence))) end
    return
  end
  if keyed and waits(isSame) then
    n.full = n.full + 1
    return
  end
  local own = lags and wait(100, false, true)
  if own then return later(c.node, frame('r', pack('<I4', c.fence) .. own)) end
  n.full = n.full + 1
  miss()
  n.missed = n.missed + 1
  if full == DELETES then deleted[#deleted + 1] = x end
end

-- Notes that a node is given a message, and how many of the channel it was given before. A message is pushed once, with all its
-- places.
local function gives(to, at, what, key, sent)
  local g = given[to]
  if not g then
    g = {}
    places[to], given[to] = {}, g
  end
  local ps = places[to][what]
  if not ps then
    ps = {}
    places[to][what] = ps
  end
  ps[#ps + 1], g[#g + 1] = at, {key, sent}
end

pushMessage = function(at, what)
  gives(c.node, at, what, state, pack('<I3', c.sent))
  return true
end

-- Visits a member with a state.
local function member(y, s)
  n.members = n.members + 1
  local length = string.len(y)
  base, x = prefix .. sub(y, 1, length - 16), sub(y, length - 15)
  local head, len, inflight, sent, waiting, bytes, ahead, to, fence, flags = struct.unpack('<I6I3I3I3I3I5I1c8I4I1', s)
  if kind == 0 and not mergeable and waiting == 0 and math.floor(flags / 64) % 2 == 0 and len - inflight < buffer and
    used + addedBytes < memory then
    if keyed and call('SADD', base .. 'i' .. x, messageKey) == 0 then
      n.accepted, n.duplicates = n.accepted + 1, n.duplicates + 1
      return
    end
    call('RPUSH', base .. 'q' .. x, m)
    if flags % 2 == 1 and sent == len and sent - inflight < ahead then
      if #m > PUSHED then
        later(to, frame('w', pack('<I4I6', fence, head + len)))
      else
        gives(to, pack('<I4I6', fence, head + len), m, base .. 's' .. x, sub(s, 13, 15))
        sent = sent + 1
      end
    elseif flags % 2 == 0 and len == inflight and unread(len, inflight, flags, struct.unpack('<I3', s, STATE - 2)) == 0 then
      noteWaiting(base, x, now())
    end
    added, addedBytes, n.accepted = added + 1, addedBytes + #m + OVERHEAD, n.accepted + 1
    call('SETRANGE', base .. 's' .. x, 6, pack('<I3I3I3I3I5', len + 1, inflight, sent, waiting, bytes + #m + OVERHEAD))
    return
  end
  state = base .. 's' .. x
  load(s)
  if kind == 1 then close() else offer() end
  save()
end

local function pushAll()
  for to, messages in pairs(places) do
    for what, ps in pairs(messages) do
      later(to, pack('<c1I4I2I2', 'b', 8 + 10 * #ps + #what, #ps, 1) .. table.concat(ps) .. pack('<I4', #what) .. what)
    end
  end
  for to, fs in pairs(frames) do
    if call('SPUBLISH', ARGV[1] .. to, table.concat(fs)) == 0 then
      -- That node is gone, so it was given nothing.
      for _, g in ipairs(given[to] or {}) do call('SETRANGE', g[1], 12, g[2]) end
    end
  end
end

-- Visits the next members. Returns false if a later walk was here already.
local function visitSome()
  local list, record = scope .. 'M' .. name, KEYS[1]
  local v = call('HMGET', record, 'number', 'at', 'id')
  if not v[3] then
    done = 2
    return true
  end
  local last, at = tonumber(v[1] or 0), v[2] or ''
  if last > number then return false end
  if last < number then at = '' end
  local from = at == '' and 0 or (call('ZRANK', list, at) or math.huge) + 1
  local all = call('ZCOUNT', list, '-inf', '(' .. string.format('%.0f', number))
  local ys = from < all and call('ZRANGE', list, from, math.min(all, from + MOST) - 1) or {}
  if from + #ys < all then done = 0 end
  call('HSET', record, 'number', number, 'at', ys[#ys] or at)
  if #ys == 0 then return true end
  local keys = {}
  for i, y in ipairs(ys) do
    local length = string.len(y)
    keys[i] = prefix .. sub(y, 1, length - 16) .. 's' .. sub(y, length - 15)
  end
  used = tonumber(call('HGET', counters, 'bytes') or 0) + elsewhere
  for i, s in ipairs(call('MGET', unpack(keys))) do
    if s then member(ys[i], s) else drop(name, ys[i], false) end
  end
  if added > 0 then call('HINCRBY', counters, 'messages', added) end
  if addedBytes ~= 0 then call('HINCRBY', counters, 'bytes', addedBytes) end
  pushAll()
  return true
end

if does(2) and not visitSome() then return reply(5, 0) end
local all = does(4) and done > 0 and #others == 0
if kind == 1 and (does(32) or all) then call('HDEL', scope .. 'H' .. name, 'ending') end
if does(8) or all then endWalk(name, id) end
return reply(1, number)

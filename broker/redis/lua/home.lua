-- Part of the scripts for topics. What there is of a topic beside its members stands in one scope, its home, by its name. Each of
-- these scripts sets scope, which begins the names of the scope's keys, and counters. N is a name.
--
-- HN is a hash: number of the last walk; keep and ttl, set if a call has set them; last, when it was published to; bytes, what it
-- keeps; closed, the end; ending, the number of the walk that brings the end, until all members have it; turn and until, whose
-- walk is under way, and until when at most; filled, how many scopes have members, and for each of these f and its number;
-- others, how many other scopes a walk visits, and for each of these s and its number, with the id of the topic's record there.
-- RN is the list of kept messages, IN the set of their keys and JN the list of those let go, QN the walks that wait for their
-- turn. L has all topics, E when those without members end, V those whose scopes are to be checked.
local scope, counters

-- What a topic counts if its memory was set.
local TOPIC = 512
-- How long a walk has its turn, and how long one that waits for it may take to come.
local TURN, GRANT = 10000, 2000

-- What a message counts.
local function sizeOf(m) return #m + OVERHEAD - (string.byte(m) % 8 > 1 and 20 or 0) end

local function field(name, key) return redis.call('HGET', scope .. 'H' .. name, key) end

local function note(name, members)
  redis.call('XADD', scope .. 'o', 'MAXLEN', '~', 1000000, '*', 't', string.char(members) .. name)
end

local function cease(name)
  local h = scope .. 'H' .. name
  local v = redis.call('HMGET', h, 'bytes', 'set', 'closed')
  local bytes = tonumber(v[1] or 0)
  local all = bytes + (v[2] and TOPIC or 0) + (v[3] and sizeOf(v[3]) or 0)
  if bytes > 0 then redis.call('HINCRBY', counters, 'kept', -bytes) end
  if all > 0 then redis.call('HINCRBY', counters, 'bytes', -all) end
  redis.call('HINCRBY', counters, 'topics', -1)
  redis.call('UNLINK', h, scope .. 'R' .. name, scope .. 'I' .. name, scope .. 'J' .. name, scope .. 'Q' .. name)
  redis.call('ZREM', scope .. 'L', name)
  redis.call('ZREM', scope .. 'E', name)
  redis.call('ZREM', scope .. 'V', name)
end

-- Finds out when the topic ceases to exist.
local function settleTopic(name)
  local v = redis.call('HMGET', scope .. 'H' .. name, 'filled', 'others', 'until', 'set', 'closed', 'keep', 'ttl', 'last')
  if not v[6] then return end
  local t, stays = now(), tonumber(v[3] or 0)
  if tonumber(v[1] or 0) > 0 or tonumber(v[2] or 0) > 0 then
    redis.call('ZREM', scope .. 'E', name)
    return
  end
  local kept = redis.call('EXISTS', scope .. 'R' .. name) == 1
  if v[4] or kept or v[5] and tonumber(v[6]) > 0 then stays = math.max(stays, v[8] + v[7]) end
  if stays <= t then return cease(name) end
  redis.call('ZADD', scope .. 'E', stays, name)
end

-- Whether the topic exists.
local function topicExists(name)
  local ends = redis.call('ZSCORE', scope .. 'E', name)
  if ends and tonumber(ends) <= now() then settleTopic(name) end
  return redis.call('EXISTS', scope .. 'H' .. name) == 1
end

-- Lets go of the oldest kept messages until so many bytes are left.
local function trim(name, limit)
  local bytes, list = tonumber(field(name, 'bytes') or 0), scope .. 'R' .. name
  local before = bytes
  while bytes > limit do
    local m = redis.call('LPOP', list)
    if not m then
      bytes = 0
      break
    end
    bytes = bytes - sizeOf(m)
    if string.byte(m) % 2 == 1 then
      local extra = redis.call('RPUSH', scope .. 'J' .. name, keyOf(m)) - REMEMBERED
      if extra > 32 then redis.call('SREM', scope .. 'I' .. name, unpack(redis.call('LPOP', scope .. 'J' .. name, extra))) end
    end
  end
  if bytes == before then return end
  redis.call('HSET', scope .. 'H' .. name, 'bytes', bytes)
  redis.call('HINCRBY', counters, 'kept', bytes - before)
  redis.call('HINCRBY', counters, 'bytes', bytes - before)
end

-- Makes the topic if there is none, and sets its memory by the limits of a call if no call has set it.
local function ensureTopic(name, keep, ttl)
  local h = scope .. 'H' .. name
  if not topicExists(name) then
    local t = now()
    redis.call('HSET', h, 'number', t * 1000, 'keep', keep, 'ttl', ttl, 'last', t)
    redis.call('ZADD', scope .. 'L', 0, name)
    redis.call('HINCRBY', counters, 'topics', 1)
    return
  end
  local v = redis.call('HMGET', h, 'set', 'keep', 'ttl')
  if v[1] or tonumber(v[2]) == keep and tonumber(v[3]) == ttl then return end
  redis.call('HSET', h, 'keep', keep, 'ttl', ttl)
  trim(name, keep)
end

-- Keeps a message, unless the topic has it or has had it not long ago. most is what all topics may keep here.
local function keepMessage(name, m, most)
  local size, keep = sizeOf(m), tonumber(field(name, 'keep'))
  if size > keep then return end
  if string.byte(m) % 2 == 1 and redis.call('SADD', scope .. 'I' .. name, keyOf(m)) == 0 then return end
  redis.call('RPUSH', scope .. 'R' .. name, m)
  local bytes = redis.call('HINCRBY', scope .. 'H' .. name, 'bytes', size)
  redis.call('HINCRBY', counters, 'bytes', size)
  local over = redis.call('HINCRBY', counters, 'kept', size) - most
  if over > 0 then keep = math.min(keep, math.max(0, bytes - over)) end
  trim(name, keep)
end

-- Notes that a scope has members now, or has none any more.
local function filled(name, number, has)
  local h = scope .. 'H' .. name
  if has then
    if redis.call('HSET', h, 'f' .. number, 1) == 0 then return end
    if redis.call('HINCRBY', h, 'filled', 1) == 1 then note(name, 1) end
  elseif redis.call('HDEL', h, 'f' .. number) == 1 and redis.call('HINCRBY', h, 'filled', -1) == 0 then
    note(name, 0)
  end
end

-- Sees to it that walks visit another scope, by the id of the topic's record there.
local function visit(name, number, id)
  local h = scope .. 'H' .. name
  local known = redis.call('HGET', h, 's' .. number)
  if not known then redis.call('HINCRBY', h, 'others', 1) end
  if known and known ~= id then filled(name, number, false) end -- the record before was gone with its last member
  redis.call('HSET', h, 's' .. number, id)
  redis.call('ZADD', scope .. 'V', 'NX', now() + 60000, name)
end

-- Sees to it that they do not any more, unless there is another record by now.
local function skip(name, number, id)
  local h = scope .. 'H' .. name
  if redis.call('HGET', h, 's' .. number) ~= id then return end
  redis.call('HDEL', h, 's' .. number)
  redis.call('HINCRBY', h, 'others', -1)
  filled(name, number, false)
end

-- Gives the turn to the walk that has waited longest.
local function passOn(name)
  while true do
    local id = redis.call('LPOP', scope .. 'Q' .. name)
    if not id then
      redis.call('HDEL', scope .. 'H' .. name, 'turn', 'until')
      return
    end
    if push(string.sub(id, 1, 8), 'a', string.sub(id, 9) .. struct.pack('<I1I2I2', 0, 0, 0)) > 0 then
      redis.call('HSET', scope .. 'H' .. name, 'turn', id, 'until', now() + GRANT)
      return
    end
  end
end

-- Ends a walk.
local function endWalk(name, id)
  if field(name, 'turn') == id then
    passOn(name)
    settleTopic(name)
  end
end

-- Begins a walk, which closes the topic if closes is true. Returns its number, or the reason why not: -1 with how long it waits
-- for its turn at most, -2 closed, -3 no memory, 0 no topic. If a walk that brings the end was broken off, it goes on with its number,
-- and its end is returned too.
local function beginWalk(name, id, m, closes, l)
  if not topicExists(name) and l.keep == 0 then return 0 end
  ensureTopic(name, l.keep, l.ttl)
  local h, t = scope .. 'H' .. name, now()
  local v = redis.call('HMGET', h, 'turn', 'until', 'closed')
  if v[1] and v[1] ~= id and tonumber(v[2]) > t and push(string.sub(v[1], 1, 8), 'h', '') > 0 then
    if not redis.call('LPOS', scope .. 'Q' .. name, id) then redis.call('RPUSH', scope .. 'Q' .. name, id) end
    return -1, v[2] - t
  end
  local code
  local ending = closes and v[3] and tonumber(field(name, 'ending'))
  if v[3] and not ending then
    code = -2
  elseif not closes and tonumber(redis.call('HGET', counters, 'bytes') or 0) + l.elsewhere >= l.memory then
    code = -3
  end
  redis.call('LREM', scope .. 'Q' .. name, 1, id)
  redis.call('HSET', h, 'turn', id, 'until', t + TURN)
  if code then
    endWalk(name, id)
    return code
  end
  if ending then return ending, v[3] end
  redis.call('HSET', h, 'last', t)
  if closes then
    redis.call('HSET', h, 'closed', m)
    redis.call('HINCRBY', counters, 'bytes', sizeOf(m))
  else
    keepMessage(name, m, math.floor(l.memory / 2) - l.keptElsewhere)
  end
  redis.call('ZADD', scope .. 'E', t + TURN, name) -- if it has no members and the walk does not end
  -- A server that has become the primary may lack the last walks. Other scopes know of them.
  local number = math.max(tonumber(field(name, 'number')) + 1, t * 1000)
  redis.call('HSET', h, 'number', number)
  if closes then redis.call('HSET', h, 'ending', number) end
  return number
end

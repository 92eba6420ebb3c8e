-- Makes a channel a member of a topic, in its scope. KEYS: as lua/channel.lua says.
-- ARGV: 2 the topic, 3 numbers, 4 which begins the names of the keys of its home, 5 number of this scope, 6 an id for the topic's
-- record here if there is none. If the home is another scope, also: 7 the id that the record must have, or empty to begin; 8 the
-- number of the topic's last walk, when there were the kept messages; 9 the end, or empty; and then the kept messages.
-- Returns -2 no such channel, -3 too many topics, -4 the record is another one, or a walk has passed: begin again. Else the id of
-- the record, 1 if the channel is a member now and 2 if it was one before, and how many messages it has taken, and merged.
local maxTopics, last, keep, ttl, elsewhere = struct.unpack('<I4I4I7I5I7', ARGV[3])
local name, home, own, id = ARGV[2], ARGV[4], ARGV[5], ARGV[6]
counters = KEYS[2]
scope = string.sub(counters, 1, -2)
if not load() then return -2 end
local topics, record = key('j'), scope .. 'T' .. name
local mine = redis.call('HEXISTS', topics, name) == 1
if mine then return {redis.call('HGET', record, 'id'), 2, 0, 0, 0} end
if redis.call('HLEN', topics) >= maxTopics then return -3 end
local number, closed, kept, from = nil, '', ARGV, 10
if home == scope then
  ensureTopic(name, keep, ttl)
  local v = redis.call('HMGET', scope .. 'H' .. name, 'number', 'closed')
  number, closed, from = tonumber(v[1]), v[2] or '', 1
  kept = last > 0 and redis.call('LRANGE', scope .. 'R' .. name, -last, -1) or {}
elseif ARGV[7] ~= '' then
  number, closed = tonumber(ARGV[8]), ARGV[9]
  local v = redis.call('HMGET', record, 'id', 'number')
  if v[1] ~= ARGV[7] or tonumber(v[2] or 0) > number then return -4 end
end
if redis.call('HSETNX', record, 'id', id) == 1 then
  redis.call('HSET', record, 'home', home, 'own', own)
  if not number then redis.call('PEXPIRE', record, 60000) end
end
id = redis.call('HGET', record, 'id')
if not number then return {id, 0, 0, 0, 0} end
local first = redis.call('EXISTS', scope .. 'M' .. name) == 0
redis.call('ZADD', scope .. 'M' .. name, number, memberOf(base, x))
redis.call('HSET', topics, name, '')
redis.call('HINCRBY', counters, 'memberships', 1)
set(128)
if hasReader() then redis.call('HINCRBY', record, 'readers', 1) end
if first then
  redis.call('PERSIST', record)
  tellHome(name, home, own, id, true)
end
local taken, replaced, appended = 0, 0, 0
local function bring(m)
  if duplicate(m) then return false end
  local kept, mark, whole, older, olderKey, dressed = m, nil, nil, nil, nil, nil
  if string.byte(m) > 1 then kept, mark, whole, older, olderKey, dressed = mergeHere(m) end
  if whole then
    appendWhole(whole, older, mark, olderKey, dressed)
    if string.byte(m) < 4 then replaced = replaced + 1 else appended = appended + 1 end
  else
    append(kept, mark, now())
  end
  taken = taken + 1
  return true
end

-- Returns what pieces of a text become, from an index on, that would be appended to the newest message one after the other, and
-- how many those are. like is the piece before them. They are brought in one step, or else Redis would copy a long text for each.
local function following(like, first)
  local body = struct.unpack('<I4', like, 18) + 20
  local position, size, _, before = struct.unpack('<I6I4I1I4', redis.call('GET', key('g')))
  local stream, kind, parts, keys, length, n = string.sub(like, 26, 37), string.byte(like, body), {}, {}, 2, 0
  size = size - before - 1 -- of the body of the newest message
  if position ~= c.head + c.len - 1 then return nil, 0 end
  while first + n <= #kept do
    local m = kept[first + n]
    if math.floor(string.byte(m) / 2) ~= 2 or string.sub(m, 26, 37) ~= stream or duplicate(m) then break end
    local at, most = struct.unpack('<I4I4', m, 18)
    at = at + 20
    local more, list = #m - at - 1, kind == 91 -- at is where the body begins, and it ends before "}\n"
    local grown = size + more - 2 + (list and size > 2 and more > 2 and 1 or 0)
    if string.byte(m, at) ~= kind or grown > most then break end
    if list and length > 2 and more > 2 then
      parts[#parts + 1] = ','
      length = length + 1
    end
    parts[#parts + 1] = string.sub(m, at + 1, -4)
    size, length, n = grown, length + more - 2, n + 1
    if string.byte(m) % 2 == 1 then keys[#keys + 1] = keyOf(m) end
  end
  if n < 2 then return nil, 0 end
  local last = kept[first + n - 1]
  body = struct.unpack('<I4', last, 18) + 20
  if string.byte(last) % 2 == 1 then keys[#keys] = nil end -- which bring remembers
  local oldest = math.max(1, #keys - REMEMBERED + 1)
  if #keys > 0 then redis.call('SADD', key('i'), unpack(keys, oldest)) end
  remember(keys, oldest)
  return string.sub(last, 1, body) .. table.concat(parts) .. string.sub(last, -3), n
end

-- Returns an event id as it stands in lines.
local function textOf(id)
  local hex = string.gsub(id, '.', function(ch) return string.format('%02x', string.byte(ch)) end)
  return (string.gsub(hex, '^(........)(....)(....)(....)', '%1-%2-%3-%4-'))
end

-- Returns a message with another event id if a cursor may show the one that it has: the channel holds a message with that, or has
-- settled it last. Or else the cursor could mean both. n is a number of its own in this call.
local known
local function again(m, n)
  if string.byte(m) % 2 == 1 then return m end -- one with a key is a duplicate
  if not known then
    known = {[c.settled] = true}
    each(0, c.len - 1, function(held) known[string.sub(held, 2, 17)] = true end)
  end
  local id = string.sub(m, 2, 17)
  if not known[id] then return m end
  local random = redis.sha1hex(id .. x .. ARGV[6] .. n)
  local other = string.gsub(string.sub(random, 1, 16), '..', function(hex) return string.char(tonumber(hex, 16)) end)
  other = string.sub(id, 1, 8) .. string.char(128 + string.byte(other) % 64) .. string.sub(other, 2)
  local first, last = string.find(m, textOf(id), 18, true)
  return string.sub(m, 1, 1) .. other .. string.sub(m, 18, first - 1) .. textOf(other) .. string.sub(m, last + 1)
end

local unknown = {}
for i = from, #kept do unknown[#unknown + 1] = again(kept[i], i) end
kept = unknown
if last > 0 and closed ~= '' then closed = again(closed, 0) end

local i = 1
while i <= #kept do
  local m = kept[i]
  local new = bring(m)
  i = i + 1
  if new and math.floor(string.byte(m) / 2) == 2 and c.held == 0 then
    local whole, n = following(m, i)
    if whole and bring(whole) then
      taken, appended, i = taken + n - 1, appended + n - 1, i + n
    end
  end
end
if last > 0 and closed ~= '' and flag(32) then bring(closed) end
admit(elsewhere) -- what waits may have the key of a kept message
save()
return {id, 1, taken, replaced, appended}

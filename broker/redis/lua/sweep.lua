-- Deletes expired channels, ends topics whose time is up, and finds channels in which messages wait that nobody reads.
-- KEYS: 1 counters, 2 deletions, 3 channels to report in which messages wait, then the times of expiry of some partitions, and
-- unless ARGV 4 is empty, their channels in which messages wait: see lua/waiting.lua.
-- ARGV: 2 how many channels at most, 3 1 if the topics of the scope are to be looked after, 4 how long messages must wait until that
-- is reported, or 0 if nobody wants to know, 5 1 if channels may be missing in which messages wait, 6 if nobody wants to know, and
-- unless the scope is one partition, the hash tags of all partitions, 3 bytes each.
-- Returns how many deletions are to be announced, whether there is more to do, whether other scopes are to be told of members of
-- topics, topics whose scopes are to be checked, how many channels are to be reported in which messages wait, and then the
-- numbers of each channel that was deleted.
counters = KEYS[1]
scope = string.sub(counters, 1, -2)
local most, after = tonumber(ARGV[2]), tonumber(ARGV[4])
local n = after and (#KEYS - 3) / 2 or #KEYS - 3
local left, t, out = most, now(), {0, 0, 0, {}, 0}
for i = 4, 3 + n do
  local expired = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', t, 'LIMIT', 0, left + 1)
  for _, x in ipairs(expired) do
    if left <= 0 then
      out[2] = 1
      break
    end
    left = left - 1
    local gone = remove(string.sub(KEYS[i], 1, -2), x, 0, KEYS[2])
    if gone then
      left = left - math.floor(gone[4] / 4)
      out[#out + 1] = gone
    end
  end
  if out[2] == 1 then break end
end

-- In the set of channels in which messages wait, beside these:
local KEPT = 'until' -- until when it is kept, unless somebody wants to know by then
local BEFORE = 'before' -- channels that expire after this may wait since before there was the set
local KEEP = 60000
-- How many channels may be in KEYS[3]. The others stay in their sets, so none is lost if reports are not taken off.
local MOST = 100000

-- Returns how many messages wait in a channel, since when if it has come to its state just now, and its agent. There are none if
-- there is no such channel, or somebody reads it, or it was reported.
local function waiting(base, x)
  local s = redis.call('GET', base .. 's' .. x)
  if not s then return 0 end
  local _, len, inflight, _, _, _, ahead, _, _, flags, _, created, read, _, unconfirmed = struct.unpack(ALL, s)
  if flags % 2 == 1 or ahead == TOLD then return 0 end
  return unread(len, inflight, flags, unconfirmed), math.max(created, read),
    string.sub(s, STATE + (math.floor(flags / 8) % 2 == 1 and 9 or 1)), len
end

-- Returns when the message at an index has come, by the clock of the node that took it.
local function came(base, x, i)
  local m = redis.call('LINDEX', base .. 'q' .. x, i)
  if not m then return t end
  local first = string.byte(m)
  if first >= 16 then return (struct.unpack('<I5', m, math.floor(first / 8) % 2 == 1 and 22 or 18)) end
  return struct.unpack('>I6', m, 2) - EPOCH
end

-- Puts channels into the set that wait since before there was one. Returns how many it has looked at.
local function putBefore(base, set, from)
  local expiries, last = base .. 'x', string.format('(%.0f', READING)
  local at = redis.call('ZRANGEBYSCORE', expiries, '(' .. from, last, 'WITHSCORES', 'LIMIT', left - 1, 1)
  if at[2] then last = at[2] end
  local xs = redis.call('ZRANGEBYSCORE', expiries, '(' .. from, last)
  for _, x in ipairs(xs) do
    local k, since, _, len = waiting(base, x)
    if k > 0 then redis.call('ZADD', set, 'NX', math.max(since, math.min(t, came(base, x, len - k))), x) end
  end
  if at[2] then
    redis.call('ZADD', set, last, BEFORE)
    out[2] = 1
  else
    redis.call('ZREM', set, BEFORE)
  end
  return #xs
end

-- Reports a channel in which messages wait, if that is still so.
local function report(base, set, x, since)
  local k, changed, agent = waiting(base, x)
  since = math.max(since, changed or 0)
  if k > 0 and since > t - after then return redis.call('ZADD', set, since, x) end -- of a reader that has left nothing was noted
  if k > 0 then
    redis.call('XADD', KEYS[3], '*', 'w', x .. struct.pack('<I3I5', k, since) .. agent)
    redis.call('SETRANGE', base .. 's' .. x, AHEAD, struct.pack('<I1', TOLD))
  end
  redis.call('ZREM', set, x)
end

-- Returns what begins the names of the keys of a channel's partition.
local function baseOf(x)
  if ARGV[6] == '' then return scope end
  local at = string.byte(x) * 3
  return string.match(scope, '^[^{]*') .. '{' .. string.match(string.sub(ARGV[6], at + 1, at + 3), '%w+') .. '}'
end

-- Takes back reports that no node has taken. Their channels wait as before, to be reported when somebody wants to know again, unless
-- a reader has come. Reports whether none is left.
local function takeBack()
  local ids = {}
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', left)) do
    local w = entry[2][2]
    if #w >= 24 then
      local x = string.sub(w, 1, 16)
      local base = baseOf(x)
      local s = redis.pcall('GET', base .. 's' .. x)
      if type(s) == 'table' then break end -- it is elsewhere for a moment while its slot moves
      if s and string.byte(s, AHEAD + 1) == TOLD then
        redis.call('SETRANGE', base .. 's' .. x, AHEAD, '\0')
        noteWaiting(base, x, (struct.unpack('<I5', w, 20)))
      end
    end
    ids[#ids + 1] = entry[1]
  end
  if #ids > 0 then redis.call('XDEL', KEYS[3], unpack(ids)) end
  left = left - #ids
  return redis.call('XLEN', KEYS[3]) == 0
end

-- Looks after the channels of a partition in which messages wait.
local function look(base, set)
  local kept = redis.call('ZMSCORE', set, KEPT, BEFORE)
  local ends, before = tonumber(kept[1]), kept[2]
  if after == 0 then
    if ends and ends <= t then
      if left > 0 and takeBack() then redis.call('UNLINK', set, KEYS[3]) elseif left <= 0 then out[2] = 1 end
    end
    return
  end
  if not ends or ends < t + KEEP / 2 then redis.call('ZADD', set, t + KEEP, KEPT) end
  if not ends or ARGV[5] == '1' then
    before = t
    redis.call('ZADD', set, t, BEFORE)
  end
  if before and left > 0 then left = left - putBefore(base, set, before) elseif before then out[2] = 1 end
  if left <= 0 then
    out[2] = 1
    return
  end
  local room = MOST - redis.call('XLEN', KEYS[3])
  if room <= 0 then return end
  local due = redis.call('ZRANGEBYSCORE', set, '-inf', t - after, 'WITHSCORES', 'LIMIT', 0, math.min(left, room))
  for i = 1, #due, 2 do
    if #due[i] == 16 then report(base, set, due[i], tonumber(due[i + 1])) end
  end
  left = left - #due / 2
end

left = most
for i = 4 + n, #KEYS do look(string.sub(KEYS[i], 1, -2), KEYS[i]) end
if after and after > 0 then out[5] = redis.call('XLEN', KEYS[3]) end
if ARGV[3] == '1' then
  local ended = redis.call('ZRANGEBYSCORE', scope .. 'E', '-inf', t, 'LIMIT', 0, ARGV[2])
  for _, name in ipairs(ended) do
    if redis.call('EXISTS', scope .. 'H' .. name) == 0 then redis.call('ZREM', scope .. 'E', name) end
    settleTopic(name)
  end
  if #ended == tonumber(ARGV[2]) then out[2] = 1 end
  out[3] = redis.call('EXISTS', scope .. 'y')
  out[4] = redis.call('ZRANGEBYSCORE', scope .. 'V', '-inf', t, 'LIMIT', 0, 10)
end
out[1] = redis.call('XLEN', KEYS[2])
return out

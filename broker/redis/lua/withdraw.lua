-- Withdraws a call that waits for room, unless all that it has left are duplicates meanwhile.
-- ARGV: 2 id of the call, 3 memory in use in other scopes, 4 the memory that the call may use, 5 the event id of its last message,
-- 6 1 to ask only whether it waits.
-- Returns -2 if there is no such channel, -3 if the call does not wait and the channel holds its last message, -1 if the channel
-- does not hold that either, 0 if it waits and that was asked. Else how many of its messages were taken, how many of these are
-- duplicates, 1 if memory is all that was missing, how many messages it has, and how many have replaced others or were appended.
if not load() then return -2 end
local id = ARGV[2]
local w = waiter(id)
if not w then
  local found = -1
  each(0, c.len - 1, function(m)
    if string.sub(m, 2, 17) == ARGV[5] then
      found = -3
      return false
    end
  end)
  return found
end
if ARGV[6] == '1' then return 0 end
take(id, w, nil)
local next = w.first < w.count and redis.call('HGET', key('p'), id .. struct.pack('<I2', w.first)) or nil
local first = redis.call('LINDEX', key('w'), 0) == id
redis.call('LREM', key('w'), 1, id)
forget(id, w)
local elsewhere, missing = tonumber(ARGV[3]), 0
local roomy = room(w.buffer)
if not roomy and next ~= nil and string.byte(next) > 1 then
  local _, _, whole = mergeHere(next)
  roomy = whole ~= nil
end
if roomy and memory(elsewhere) >= tonumber(ARGV[4]) then missing = 1 end
if w.topic ~= '' and w.first < w.count then miss() end
if first then admit(elsewhere) end -- the next one may have a larger buffer
save()
return {w.first, w.duplicates, missing, w.count, w.replaced, w.appended}

-- Withdraws a call that waits for room, unless all that it has left are duplicates meanwhile.
-- ARGV: 2 id of the call, 3 memory in use in other scopes, 4 the memory that the call may use.
-- Returns -2 if there is no such channel, -1 if the call does not wait. Else how many of its messages were taken, how many of
-- these are duplicates, and 1 if memory is all that was missing.
if not load() then return -2 end
local id = ARGV[2]
local w = waiter(id)
if not w then return -1 end
take(id, w, nil)
local first = redis.call('LINDEX', key('w'), 0) == id
redis.call('LREM', key('w'), 1, id)
forget(id, w)
local elsewhere, missing = tonumber(ARGV[3]), 0
if c.len - c.inflight < w.buffer and memory(elsewhere) >= tonumber(ARGV[4]) then missing = 1 end
if first then admit(elsewhere) end -- the next one may have a larger buffer
save()
return {w.first, w.duplicates, missing, w.count}

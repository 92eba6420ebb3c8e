-- Tells that the reader has taken no more than Redis knows. So messages of topics that wait only for that are missed.
-- ARGV: 2 node, 3 fence, 4 up to where the reader has taken, 5 id of the last call that asked, 6 memory in use in other scopes.
if not load() or not hasReader() or c.node ~= ARGV[2] or c.fence ~= tonumber(ARGV[3]) then return 0 end
if c.head + c.inflight ~= tonumber(ARGV[4]) then return 0 end -- a report is on its way
local ids = redis.call('LRANGE', key('w'), 0, -1)
local last = 0
for i, id in ipairs(ids) do
  if id == ARGV[5] then last = i end
end
for i = 1, last do
  local id = ids[i]
  local w = waiter(id)
  if w and w.brief == '1' then
    redis.call('LREM', key('w'), 1, id)
    forget(id, w)
    miss()
    push(string.sub(id, 1, 8), 'a', string.sub(id, 9) .. struct.pack('<I1I2I2', 3, 0, 0))
  end
end
admit(tonumber(ARGV[6]))
save()
return 0

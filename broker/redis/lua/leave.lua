-- Ends a membership. KEYS: as lua/channel.lua says. ARGV: 2 the topic, 3 memory in use in other scopes. Returns -2 if there is no
-- such channel.
local name = ARGV[2]
counters = KEYS[2]
scope = string.sub(counters, 1, -2)
if not load() then return -2 end
if redis.call('HDEL', key('j'), name) == 0 then return 0 end
if redis.call('EXISTS', key('j')) == 0 then c.flags = c.flags - 128 end
drop(name, memberOf(base, x), hasReader())
noteGap()
-- What of the topic waits for room does not come.
for _, id in ipairs(c.held > 0 and redis.call('LRANGE', key('w'), 0, -1) or {}) do
  local w = waiter(id)
  if w and w.topic == name then
    redis.call('LREM', key('w'), 1, id)
    forget(id, w)
    push(string.sub(id, 1, 8), 'a', string.sub(id, 9) .. struct.pack('<I1I2I2', 5, 0, 0))
  end
end
admit(tonumber(ARGV[3]))
return save()

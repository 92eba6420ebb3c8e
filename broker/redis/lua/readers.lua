-- Part of the scripts that change whether a channel has a reader.

-- Tells the topics of a channel. topics is the key of these, and scope begins the names of the scope's keys.
local function readerChanged(topics, scope, by)
  for _, name in ipairs(redis.call('HKEYS', topics)) do redis.call('HINCRBY', scope .. 'T' .. name, 'readers', by) end
end

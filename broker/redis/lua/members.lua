-- Part of the scripts that change who is a member of topics. Each member stands in the scope of its channel, in the sorted set MN.
-- Its score is the number of the walk after which it joined: walks with larger numbers visit it. TN is the topic's record in the
-- scope, a hash: id; home, which begins the names of the keys of its home, and own, the number of this scope; readers, how many
-- members have a reader; number of the walk that was here last, and at, the member that it has visited last. A member is the part
-- of the key of its channel's state that no other channel has, without the letter. The topics of a channel are in its hash j. If
-- the home is another scope, y is the list of what that is to be told, and N has all topics with members.

local function memberOf(base, x) return string.match(base, '{%w*}$') .. x end

-- Tells the home of a topic whether this scope, whose number is own, has members.
local function tellHome(name, home, own, id, has)
  if home == scope then
    filled(name, own, has)
    if not has then settleTopic(name) end
    return
  end
  redis.call(has and 'SADD' or 'SREM', scope .. 'N', name)
  redis.call('RPUSH', scope .. 'y', struct.pack('<I1', has and 1 or 0) .. id .. name)
end

-- Ends a membership in this scope. reads tells whether the member has a reader.
local function drop(name, member, reads)
  local key, record = scope .. 'M' .. name, scope .. 'T' .. name
  local rank = redis.call('ZRANK', key, member)
  if not rank then return end
  local v = redis.call('HMGET', record, 'at', 'home', 'own', 'id')
  if v[1] == member then
    redis.call('HSET', record, 'at', rank > 0 and redis.call('ZRANGE', key, rank - 1, rank - 1)[1] or '')
  end
  redis.call('ZREM', key, member)
  redis.call('HINCRBY', counters, 'memberships', -1)
  if reads then redis.call('HINCRBY', record, 'readers', -1) end
  if redis.call('EXISTS', key) == 0 and v[4] then
    redis.call('DEL', record)
    tellHome(name, v[2], v[3], v[4], false)
  end
end

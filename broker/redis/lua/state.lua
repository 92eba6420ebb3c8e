-- Part of every script that works on channels. ARGV[1] begins the name of each node's Pub/Sub channel.
--
-- The state of a channel is a packed string:
--   head      position of the oldest message; positions count from 0 and never go back
--   len       how many messages the queue holds
--   inflight  how many of them, from the oldest, readers have taken
--   sent      how many of them, from the oldest, the present reader's node has been given
--   held      how many calls wait for room
--   bytes     what the messages take
--   ahead     how many messages the reader's node may be given before they are taken
--   node, fence  who the reader is
--   flags     1 there is a reader, 2 the channel follows cursors, 4 a reader has acknowledged, 8 a client's quota counts it,
--             16 the time to live is its own, 32 it knows topics, 64 it has marks (lua/marks.lua), 128 it is a member of topics
--   settled   id of the last message that was let go
--   created, read, ttl  in milliseconds
--   unconfirmed  how many messages, from the oldest, a read has brought of whose end it is not known whether the client saw it,
--             or if the channel follows cursors, any read
-- After it come the client (8 bytes, if flag 8 is set) and the agent's name.
local ALL = '<I6I3I3I3I3I5I1c8I4I1c16I5I5I5I3'
local STATE = 71
-- The score of a channel that is being read, in the sorted set of the times of expiry.
local READING = 4503599627370496
-- What a message counts beside its line, less the 17 bytes before it: see messageOverhead in package broker.
local OVERHEAD = 79
-- How many idempotency keys a channel remembers beside those of the messages that it holds: KeyWindow in package broker.
local REMEMBERED = 256
-- Larger messages are fetched by the reader's node, not pushed to it.
local PUSHED = 8192

local EPOCH = 1735689600000 -- the beginning of 2025, in milliseconds

-- Milliseconds since then.
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) - EPOCH
end

-- What a channel remembers of an idempotency key: 60 bits of the event id, as a number. Redis keeps a small set of numbers in
-- 8 bytes each, and finds one fast. A list of the same numbers has their order.
local function keyOf(m)
  local high, low = struct.unpack('<I4I4', m, 2)
  return string.format('%d%010d', high % 268435456, low)
end

local function frame(kind, body) return struct.pack('<c1I4', kind, #body) .. body end

local function push(node, kind, body) return redis.call('SPUBLISH', ARGV[1] .. node, frame(kind, body)) end

-- Creates a channel. KEYS: 1 state, 2 counters, 3 times of expiry, 4 quotas of clients.
-- ARGV: 2 numbers, 3 client (8 bytes, or empty), 4 agent. Returns 0, or 1 too many channels, 2 too many of the client.
local ttl, maxChannels, elsewhere, maxOfClient, own, knows = struct.unpack('<I5I5I5I5I1I1', ARGV[2])
local client, x = ARGV[3], string.sub(KEYS[1], -16)
if tonumber(redis.call('HGET', KEYS[2], 'channels') or 0) + elsewhere >= maxChannels then return 1 end
local flags = own * 16 + knows * 32
if client ~= '' then
  if tonumber(redis.call('HGET', KEYS[4], client) or 0) >= maxOfClient then return 2 end
  redis.call('HINCRBY', KEYS[4], client, 1)
  flags = flags + 8
end
local t, none = now(), string.rep('\0', 8)
redis.call('SET', KEYS[1], struct.pack(ALL, 0, 0, 0, 0, 0, 0, 0, none, 0, flags, none .. none, t, 0, ttl, 0) .. client .. ARGV[4])
redis.call('ZADD', KEYS[3], t + ttl, x)
redis.call('HINCRBY', KEYS[2], 'channels', 1)
return 0

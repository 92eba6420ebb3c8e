-- Part of the scripts that write messages: merging (protocol.md 2.13).
--
-- The first byte of a message says how it is merged (2 replace, 4 append), beside 1 if it has a key. Such a message comes with more
-- between its id and its line: where its body begins in what is kept of it, how large the body of a whole may be, and a digest of
-- its stream. That is not kept with the message. What is needed of the newest one stands beside the queue: its position and size,
-- and its mark, which has how it is merged, where its body begins, the digest, and its key if it has one. It counts only while a
-- message of that position is the newest. How it is merged has 8 besides if something stands before its line: see lua/marks.lua.

-- Behind how many messages that are not taken the newest one is not given to a reader's node if it may be merged. Or else a slow
-- reader's node would have all that the buffer takes, and nothing could be merged. mergeAhead in package redis is the same.
local function mergeAhead(ahead) return math.max(1, math.floor(ahead * 3 / 4)) end

-- Returns a message as it is kept, and its mark. If it is merged with the newest message, also what they become, and the size of
-- the newest one now, its key or an empty string, and whether something stands before its line. position is that of the newest message if it is pending and was given to no reader's node, else false.
local function merge(m, queue, beside, position)
  local how = math.floor(string.byte(m) / 2)
  local body, most, stream = struct.unpack('<I4I4c12', m, 18)
  local kept, mark = string.sub(m, 1, 17) .. string.sub(m, 38), struct.pack('<I1I4c12', how, body, stream)
  if string.byte(m) % 2 == 1 then mark = mark .. keyOf(m) end
  local newest = position and redis.call('GET', beside)
  if not newest then return kept, mark end
  local at, size, olderHow, olderBody, olderStream, rest = struct.unpack('<I6I4I1I4c12', newest)
  if at ~= position or olderHow % 8 ~= how or olderStream ~= stream then return kept, mark end
  local olderKey = string.sub(newest, rest)
  if how == 1 then return kept, mark, kept, size, olderKey, olderHow >= 8 end
  local older = redis.call('LINDEX', queue, -1)
  local a, b = string.sub(older, olderBody, -3), string.sub(kept, body, -3)
  local first, comma = string.byte(a), ''
  if first ~= string.byte(b) or first ~= 34 and first ~= 91 then return kept, mark end -- not two strings, nor two arrays
  if first == 91 and #a > 2 and #b > 2 then comma = ',' end
  if #a + #b - 2 + #comma > most then return kept, mark end
  return kept, mark, string.sub(kept, 1, body - 1) .. string.sub(a, 1, -2) .. comma .. string.sub(kept, body + 1), size,
    olderKey, olderHow >= 8
end

-- Notes what is needed of the newest message to merge others with it.
local function keepMark(beside, position, size, mark)
  redis.call('SET', beside, struct.pack('<I6I4', position, size) .. mark)
end

-- Part of the scripts that change in which channels messages wait that nobody reads: see broker.WaitingSource.
--
-- A partition has these channels in the sorted set r, with the time since when, until they are reported. There is such a set only
-- while somebody wants to know: lua/sweep.lua makes it, and puts in what waits already. A channel that was reported has TOLD as
-- ahead, until the next reader comes. Entries may be out of date, so what is due is looked at again.
--
-- In a cluster, the set may be elsewhere for a moment while its slot moves. The scripts do without then, and a node looks for what
-- they have left out.
local TOLD = 255 -- larger than what a reader's node may be given
local AHEAD = 23 -- where in a state that stands, from 0

-- How many messages wait in a channel without a reader. The others have reached the last reader's machine.
local function unread(len, inflight, flags, unconfirmed)
  if math.floor(flags / 4) % 2 == 1 then return len end
  return len - math.min(unconfirmed, inflight)
end

-- Notes that messages wait in a channel from now on.
local function noteWaiting(base, x, t)
  local set = base .. 'r'
  if redis.pcall('EXISTS', set) == 1 then redis.call('ZADD', set, t, x) end
end

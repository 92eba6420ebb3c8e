-- Tells the home of topics what has changed in another scope. KEYS: 1 counters. ARGV: 2 number of the other scope, then for each
-- topic 1 if the scope has members and 0 if it has none, the id of its record, and the topic; 2 instead of 1 if that is how it is
-- now. The same may be told twice, and late.
counters = KEYS[1]
scope = string.sub(counters, 1, -2)
for i = 3, #ARGV, 3 do
  local has, id, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if has ~= '0' then
    if not topicExists(name) then ensureTopic(name, 0, 0) end -- the home has lost it
    local known = field(name, 's' .. ARGV[2])
    if has == '2' or not known or known == id then
      visit(name, ARGV[2], id)
      filled(name, ARGV[2], true)
    end
  elseif redis.call('EXISTS', scope .. 'H' .. name) == 1 then
    skip(name, ARGV[2], id)
  end
  settleTopic(name)
end
return 0

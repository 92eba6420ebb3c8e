-- Takes channels out of the set of those in which producers wait for memory. KEYS: 1 the set. ARGV: 2 on, the channels.
for i = 2, #ARGV do redis.call('SREM', KEYS[1], ARGV[i]) end
return 0

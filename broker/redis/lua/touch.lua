-- Writes something, so that WAIT on this connection waits for everything that was written before. KEYS: 1 counters.
return redis.call('HINCRBY', KEYS[1], 'barriers', 1)

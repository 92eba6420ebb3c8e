-- Deletes a channel. KEYS: 1 state, 2 counters, 3 deletions. Returns -2 if there is none.
counters = KEYS[2]
scope = string.sub(counters, 1, -2)
return remove(string.sub(KEYS[1], 1, -18), string.sub(KEYS[1], -16), 1, KEYS[3]) or -2

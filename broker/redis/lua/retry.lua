-- Admits the calls that wait in a channel for memory. ARGV: 2 memory in use in other scopes.
if not load() then return 0 end
admit(tonumber(ARGV[2]))
save()
return 0

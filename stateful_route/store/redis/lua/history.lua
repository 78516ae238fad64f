-- Reads what has become of a link, the latest last; see shared/record.lua. That are 1,000 entries at most, whoever else may
-- have put more there.
-- keys: history
-- args:
-- returns: ...
-- writes: no
-- rerun: safe
-- cost: 1 command
local entries = redis.pcall('LRANGE', KEYS[1], -1000, -1)
if entries.err and string.find(entries.err, 'WRONGTYPE') then entries = {} end
return entries

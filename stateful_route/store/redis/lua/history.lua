-- Reads what has become of a link, the latest last; see shared/record.lua.
-- keys: history
-- args:
-- returns: ...
-- writes: no
-- rerun: safe
-- cost: 1 command
local entries = redis.pcall('LRANGE', KEYS[1], 0, -1)
if entries.err and string.find(entries.err, 'WRONGTYPE') then entries = {} end
return entries

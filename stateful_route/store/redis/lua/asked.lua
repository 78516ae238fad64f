-- Tells whether something is asked of a pod now, in these words; a newer release may have appended some.
-- keys: request
-- args: words
-- returns: asked
-- writes: no
-- rerun: safe
-- cost: 1 command
local kept = redis.pcall('GET', KEYS[1])
if type(kept) == 'table' and not string.find(kept.err, 'WRONGTYPE') then return kept end
local asked = type(kept) == 'string' and string.find(kept .. ' ', ARGV[1] .. ' ', 1, true) == 1
return { asked and 1 or 0 }

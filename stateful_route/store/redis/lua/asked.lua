-- Tells whether something is asked of a pod now, in these words.
-- keys: request
-- args: words
-- returns: asked
-- writes: no
-- rerun: safe
-- cost: 1 command
local kept = redis.pcall('GET', KEYS[1])
if type(kept) == 'table' and not string.find(kept.err, 'WRONGTYPE') then return kept end
return { kept == ARGV[1] and 1 or 0 }

-- Reads a link.
-- keys: link
-- args:
-- returns: outcome ttl_ms previous kind pod incarnation epoch, in a line
-- writes: no
-- rerun: safe
-- cost: 1 command for a persistent link, 2 for another
-- include: value
if plain then return 'unchanged -1 - ' .. value end
-- include: index
-- include: link
local link, unreadable = read_link(value)
if link then return reply('unchanged', link) end
return reply(unreadable and 'unreadable' or 'absent', nil)

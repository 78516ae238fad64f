-- Reads a link.
-- keys: link
-- args:
-- returns: outcome pod incarnation epoch kind ttl_ms previous
-- writes: no
-- rerun: safe
-- cost: 3 commands
-- include: link
local link, unreadable = read_link()
if link then return reply('unchanged', link) end
return reply(unreadable and 'unreadable' or 'absent', nil)

-- Answers what a value is as a link; with shared/link.lua before it.
local link, unreadable = read_link(value)
if link then return reply('unchanged', link) end
return reply(unreadable and 'unreadable' or 'absent', nil)

-- Makes a link persistent for a life of a pod, whoever holds it; with an expected epoch, only if that is its epoch.
-- keys: link index
-- args: service channel pod incarnation expected_epoch
-- returns: outcome pod incarnation epoch kind ttl_ms previous
-- writes: yes
-- rerun: safe without an expected epoch; with one, the second run of one that changed the owner is refused
-- cost: 3 commands if nothing changes, 8 otherwise
-- include: link
local link, unreadable = read_link()
if ARGV[5] ~= '' and not (link and link.epoch == tonumber(ARGV[5])) then return reply('refused', link) end
if link and link.pod == tonumber(ARGV[3]) and link.incarnation == tonumber(ARGV[4]) then
  if link.kind == 'p' then return reply('unchanged', link) end
  link.kind = 'p'
  write_link(link)
  return reply('confirmed', link)
end
local assigned = new_link('p', ARGV[3], ARGV[4], -1, link)
write_new_link(assigned, link, unreadable)
return reply(link and 'replaced' or created(unreadable), assigned, link)

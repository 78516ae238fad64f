-- Makes a link persistent for a life of a pod, whoever holds it; with an expected epoch, only if that is its epoch. A
-- newer life of the same pod keeps it: a call of an older one has arrived late. (A life that is not known is 0.)
-- `operator` says that one has asked for it.
-- keys: link ended
-- args: pod incarnation expected_epoch floor channel operator?
-- returns: outcome ttl_ms previous kind pod incarnation epoch, in a line
-- writes: yes
-- rerun: safe without an expected epoch; with one, the second run of one that changed the owner is refused
-- cost: 2 commands if nothing changes, 4 to 6 otherwise
-- include: record -- history
-- include: value
-- include: clock
-- include: link
local link, unreadable = read_link(value)
local by_operator = ARGV[6]
if ARGV[3] ~= '' and not (link and tonumber(link.epoch) == tonumber(ARGV[3])) then return reply('refused', link) end
if link and is_owner(link, ARGV[1], ARGV[2]) then
  if link.kind == 'p' then return reply('unchanged', link) end
  record(KEYS[3], now_us, 'assigned', link, link, false, by_operator) -- history
  link.kind = 'p'
  write_link(link)
  return reply('confirmed', link)
end
if link and tonumber(link.pod) == tonumber(ARGV[1]) and tonumber(link.incarnation) > tonumber(ARGV[2])
  and tonumber(ARGV[2]) > 0 then
  return reply('superseded', link)
end
local last = link and link.kind == 'p' and link.epoch or last_ended(link and link.epoch)
local assigned = new_link('p', ARGV[1], ARGV[2], -1, link, last, ARGV[4])
record(KEYS[3], now_us, 'assigned', link, assigned, false, by_operator) -- history
mark_begun(last, assigned)
write_link(assigned)
if link then invalidate_everywhere(ARGV[5], link) end
return reply(link and 'replaced' or created(unreadable), assigned, link)

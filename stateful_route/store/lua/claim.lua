-- Makes a link persistent for a life of a pod, if there is none or it is its own.
-- With steal "1" a temporary or grace link of another pod is taken too.
-- keys: link index
-- args: service channel pod incarnation steal
-- returns: outcome pod incarnation epoch kind ttl_ms previous
-- writes: yes
-- rerun: safe; the second run of one that changed the owner says "unchanged"
-- cost: 3 commands if nothing changes, 8 otherwise
-- include: link
local pod, incarnation = tonumber(ARGV[3]), tonumber(ARGV[4])
local link, unreadable = read_link()
if link and link.pod == pod and link.incarnation == incarnation then
  if link.kind == 'p' then return reply('unchanged', link) end
  link.kind = 'p'
  write_link(link)
  return reply('confirmed', link)
end
local outcome = created(unreadable)
if link then
  if link.pod == pod then
    if link.incarnation > incarnation then return reply('superseded', link) end
    outcome = 'inherited'
  else
    if link.kind == 'p' or ARGV[5] ~= '1' then return reply('refused', link) end
    outcome = 'replaced'
  end
end
local claimed = new_link('p', pod, incarnation, -1, link)
write_new_link(claimed, link, unreadable)
return reply(outcome, claimed, link)

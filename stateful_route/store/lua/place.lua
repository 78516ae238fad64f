-- Returns the link of a uid, made for the candidate if there is none, or if its owner is among the dead.
-- A temporary link is renewed and never shortened; a link in grace comes back, unless its owner is leaving.
-- keys: link index
-- args: service channel pod incarnation ttl_ms dead leaving
-- returns: outcome pod incarnation epoch kind ttl_ms previous
-- writes: yes
-- rerun: safe
-- cost: 2 commands for a persistent link, 8 for another
-- include: link
local ttl_ms = tonumber(ARGV[5])
local link, unreadable = read_link()
if link and not among(link, ARGV[6]) and not (link.kind == 'g' and among(link, ARGV[7])) then
  if link.kind == 'p' then return reply('unchanged', link) end
  local outcome = link.kind == 'g' and 'revived' or 'renewed'
  link.kind = 't'
  link.left_ms = math.max(link.left_ms, ttl_ms)
  write_link(link)
  return reply(outcome, link)
end
local placed = new_link('t', ARGV[3], ARGV[4], ttl_ms, link)
write_new_link(placed, link, unreadable)
return reply(link and 'replaced' or created(unreadable), placed, link)

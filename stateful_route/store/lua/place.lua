-- Returns the link of a uid, made for the candidate if there is none, or if its owner is among the dead.
-- A temporary link is renewed and never shortened; a link in grace comes back, unless its owner is leaving.
-- keys: link index
-- args: service channel pod incarnation ttl_ms dead leaving
-- returns: outcome ttl_ms previous kind pod incarnation epoch, in a line
-- writes: yes
-- rerun: safe
-- cost: 1 command for a persistent link, 7 for another if it is the only one of its uid
-- include: value
if plain and ARGV[6] == '' then return 'unchanged -1 - ' .. value end
-- include: index
if not value then
  local placed = 't ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. now_us
  redis.call('SET', KEYS[1], placed, 'PX', ARGV[5])
  write_index(ARGV[3], ARGV[5])
  return 'created ' .. ARGV[5] .. ' - ' .. placed
end
-- include: link
local ttl_ms = tonumber(ARGV[5])
local link, unreadable = read_link()
if link and not among(link, ARGV[6]) and not (link.kind == 'g' and among(link, ARGV[7])) then
  if link.kind == 'p' then return reply('unchanged', link) end
  local lengthened = link.left_ms < ttl_ms
  if lengthened then link.left_ms = ttl_ms end
  if link.kind == 'g' then
    link.kind = 't'
    write_link(link)
    return reply('revived', link)
  end
  if lengthened then
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    write_index(link.pod, ARGV[5])
  end
  return reply('renewed', link)
end
local placed = new_link('t', ARGV[3], ARGV[4], ttl_ms, link)
write_new_link(placed, link, unreadable)
return reply(link and 'replaced' or created(unreadable), placed, link)

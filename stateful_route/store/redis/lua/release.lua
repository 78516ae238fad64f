-- Removes a link if it is held by this pod, incarnation and epoch; an empty argument matches any.
-- Without a channel, or with an empty one, nobody is told: a pod that drains was announced to do so.
-- `operator` says that one has asked for it.
-- With a grace above 0 it still resolves for that time, or for what was left of it if that is less.
-- keys: link ended
-- args: pod incarnation epoch grace_ms channel? operator?
-- returns: outcome ttl_ms previous kind pod incarnation epoch, in a line
-- writes: yes
-- rerun: safe; the second run finds the link absent, or in grace already
-- cost: 5 commands
-- include: record -- history
-- include: value
-- include: clock
-- include: link
local function matches(wanted, found)
  return wanted == '' or tonumber(wanted) == tonumber(found)
end

local link, unreadable = read_link(value)
if not link then return reply(unreadable and 'unreadable' or 'absent', nil) end
if not (matches(ARGV[1], link.pod) and matches(ARGV[2], link.incarnation) and matches(ARGV[3], link.epoch)) then
  return reply('refused', link)
end
local grace_ms, channel, by_operator = tonumber(ARGV[4]), ARGV[5] ~= '' and ARGV[5], ARGV[6]
if link.kind ~= 'p' then grace_ms = math.min(grace_ms, link.left_ms) end
local stays = grace_ms > 0 and link -- history
if not stays or link.kind ~= 'g' then record(KEYS[3], now_us, 'released', link, stays, not channel, by_operator) end -- history
mark_ended(link, math.max(0, grace_ms))
if grace_ms <= 0 then
  redis.call('DEL', KEYS[1])
  if channel then invalidate_everywhere(channel, link) end
  return reply('released', nil, link)
end
local was_grace = link.kind == 'g'
link.kind = 'g'
link.left_ms = grace_ms
write_link(link)
if channel and not was_grace then invalidate_everywhere(channel, link) end
return reply('grace', link)

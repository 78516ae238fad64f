-- Moves a persistent link from the life of a pod that has it, at that epoch, to a life of another pod. `move` is a name of
-- this attempt, letters and digits: a claim of the new owner tells it, so that it knows which state has come along.
-- Without a channel, or with an empty one, nobody is told: a pod that drains was announced to do so. `operator` says that
-- one has asked for it.
-- keys: link ended
-- args: pod incarnation epoch to_pod to_incarnation move channel? operator?
-- returns: outcome ttl_ms previous kind pod incarnation epoch, in a line
-- writes: yes
-- rerun: safe; the second run finds the link moved, and says "unchanged", for a minute; after that it is refused
-- cost: 2 commands if nothing changes, 6 otherwise
-- include: record -- history
-- include: value
-- include: clock
-- include: link
local channel, by_operator = ARGV[7] ~= '' and ARGV[7], ARGV[8]
local link, unreadable = read_link(value)
if not link then return reply(unreadable and 'unreadable' or 'absent', nil) end
if link.kind == 'p' and is_owner(link, ARGV[1], ARGV[2]) and tonumber(link.epoch) == tonumber(ARGV[3]) then
  local moved = new_link('p', ARGV[4], ARGV[5], -1, link)
  record(KEYS[3], now_us, 'moved', link, moved, not channel, by_operator) -- history
  mark_moved(link, moved, ARGV[6])
  write_link(moved)
  if channel then invalidate_everywhere(channel, link) end
  return reply('replaced', moved, link)
end
local _, move = last_ended(link.epoch)
if move == ARGV[6] and is_owner(link, ARGV[4], ARGV[5]) then return reply('unchanged', link) end
return reply('refused', link)

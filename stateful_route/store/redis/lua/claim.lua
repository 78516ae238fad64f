-- Makes a link persistent for a life of a pod, if there is none or it is its own.
-- With steal "1" a temporary or grace link of another pod is taken too.
-- A new epoch is above `floor`, the highest that the pod knows of.
-- keys: link ended
-- args: pod incarnation steal channel floor
-- returns: outcome ttl_ms previous kind pod incarnation epoch ended? move?, in a line
-- writes: yes
-- rerun: safe; the second run of one that changed the owner says "unchanged", and tells the same
-- cost: 3 commands if nothing changes, 4 to 6 otherwise
-- include: record -- history
-- include: value
-- include: clock
-- include: link
local link, unreadable = read_link(value)

-- Tells which tenure of the uid ended last, if that was of late.
local function told(last)
  return last and not unreadable and ' ended:' .. last or ''
end

if link and is_owner(link, ARGV[1], ARGV[2]) then
  local last, move = last_ended(link.epoch)
  if link.kind == 'p' then return reply('unchanged', link) .. told(last) .. (move and ' move:' .. move or '') end
  record(KEYS[3], now_us, 'claimed', link, link) -- history
  mark_begun(last, link)
  link.kind = 'p'
  write_link(link)
  return reply('confirmed', link) .. told(last)
end
local outcome = created(unreadable)
if link then
  if tonumber(link.pod) == tonumber(ARGV[1]) then
    if tonumber(link.incarnation) > tonumber(ARGV[2]) then return reply('superseded', link) end
    outcome = 'inherited'
  else
    if link.kind == 'p' or ARGV[3] ~= '1' then return reply('refused', link) end
    outcome = 'replaced'
  end
end
local last = last_ended(link and link.epoch)
local claimed = new_link('p', ARGV[1], ARGV[2], -1, link, last, ARGV[5])
local why = ({ created = 'claimed', replaced = 'stolen' })[outcome] or outcome -- history
record(KEYS[3], now_us, why, link, claimed) -- history
mark_begun(last, claimed)
write_link(claimed)
if link and link.kind == 't' then invalidate(ARGV[4], link) end -- of another, clients hear by a new life of the pod
return reply(outcome, claimed, link) .. told(last)

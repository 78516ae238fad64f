-- Places a uid that has one, or a value that is none; with shared/link.lua before it.
local ttl_ms = tonumber(ARGV[3])
local link, unreadable = read_link(value)
if link and not among(link, ARGV[6]) and not (link.kind == 'g' and among(link, ARGV[7])) then
  if link.kind == 'p' then return reply('unchanged', link) end
  local lengthened = link.left_ms < ttl_ms
  if lengthened then link.left_ms = ttl_ms end
  if link.kind == 'g' then
    record(KEYS[3], now_us, 'placed', link, link) -- history
    link.kind = 't'
    write_link(link)
    return reply('revived', link)
  end
  if lengthened then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
  return reply('renewed', link)
end
local placed = new_link('t', ARGV[1], ARGV[2], ttl_ms, link, ARGV[4])
local why = link and 'taken-over' or unreadable and 'overwritten' or 'placed' -- history
record(KEYS[3], now_us, why, link, placed) -- history
write_link(placed)
if link and link.kind == 'p' then
  mark_ended(link, 0) -- who cached it hears of the death itself
elseif link and link.kind == 't' then
  invalidate(ARGV[8], link)
end
return reply(link and 'replaced' or created(unreadable), placed, link)

-- Places a uid that has no link; with shared/value.lua and shared/clock.lua before it.
if not value then
  if lost == nil then
    lost = ARGV[5] ~= '0'
    local told = lost and redis.pcall('HGET', pods, 'table')
    if type(told) == 'string' then lost = not string.find(told, ' ' .. ARGV[5], 1, true) end
  end
  if lost then return 'lost 0 - - 0 0 0' end
  local epoch = now_us
  if ARGV[4] - epoch >= 0 then epoch = string.format('%.0f', ARGV[4] + 1) end
  local placed = 't ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. epoch
  local ttl_ms = ARGV[3]
  record(KEYS[3], now_us, 'placed', nil, { pod = ARGV[1], incarnation = ARGV[2], epoch = epoch }) -- history
  call('SET', key, placed, 'PX', ttl_ms)
  return 'created ' .. ttl_ms .. ' - ' .. placed
end

-- Places a uid that has no link; with shared/value.lua and shared/clock.lua before it.
if not value then
  local placed = 't ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. now_us
  local ttl_ms = ARGV[3]
  record(KEYS[3], now_us, 'placed', nil, { pod = ARGV[1], incarnation = ARGV[2], epoch = now_us }) -- history
  call('SET', key, placed, 'PX', ttl_ms)
  return 'created ' .. ttl_ms .. ' - ' .. placed
end

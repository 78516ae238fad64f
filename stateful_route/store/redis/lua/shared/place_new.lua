-- Places a uid that has no link; with shared/value.lua and shared/clock.lua before it.
if not value then
  local placed = 't ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. now_us
  redis.call('SET', KEYS[1], placed, 'PX', ARGV[3])
  return 'created ' .. ARGV[3] .. ' - ' .. placed
end

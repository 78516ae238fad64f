-- Places a uid that has no link; with shared/value.lua and shared/index.lua before it.
if not value then
  local placed = 't ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. now_us
  redis.call('SET', KEYS[1], placed, 'PX', ARGV[5])
  write_index(ARGV[3], ARGV[5])
  return 'created ' .. ARGV[5] .. ' - ' .. placed
end

-- Places a uid that has no link; with shared/value.lua and shared/index.lua before it.
if not value then
  local placed = 't ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. now_us
  redis.call('SET', KEYS[1], placed, 'PX', ARGV[4])
  write_index(ARGV[2], ARGV[4])
  return 'created ' .. ARGV[4] .. ' - ' .. placed
end

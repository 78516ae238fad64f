-- The clock of Redis: `now_us` is text, as an epoch is; `now_ms` is a number.
--
-- Numbers in Lua are doubles, and tostring() of a large one loses digits: the numbers of a link stay text, and what is
-- calculated becomes text by integer().

local format = string.format
local time = redis.call('TIME')
local now_us = time[1] .. format('%06d', time[2])
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function integer(number)
  return format('%.0f', number)
end

-- The clock of Redis: `now_us`, microseconds since 1970 as text, as an epoch is. A new link needs nothing else of this.
local time = redis.call('TIME')
if #time[2] < 6 then time[2] = string.format('%06d', time[2]) end -- one in ten
local now_us = time[1] .. time[2]

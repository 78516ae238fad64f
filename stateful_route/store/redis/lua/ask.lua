-- Asks something of a pod, in so many words: keeps them until the deadline, and tells the pod, which looks whether they are
-- kept. So who may only publish asks nothing. After the deadline nothing is asked.
-- keys: request
-- args: words deadline_ms channel
-- returns: told
-- writes: yes
-- rerun: safe; the pod does what it is asked by one name once
-- cost: 3 commands
local time = redis.call('TIME')
local left_ms = tonumber(ARGV[2]) - time[1] * 1000 - math.floor(time[2] / 1000)
if left_ms <= 0 then return { 0 } end
redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', left_ms))
redis.call('PUBLISH', ARGV[3], ARGV[1])
return { 1 }

-- Reads the pods of a service and the clock at that moment: pod and entry in turn.
-- keys: pods
-- args:
-- returns: now_ms entries
-- writes: no
-- rerun: safe
-- cost: 2 commands
local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), redis.call('HGETALL', KEYS[1]) }

-- Lists the services of a uid: a service and its pod in turn, for each link that has not ended.
-- keys: index
-- args:
-- returns: ...
-- writes: no
-- rerun: safe
-- cost: 2 commands
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local entries = redis.call('HGETALL', KEYS[1])
local found = {}
for i = 1, #entries, 2 do
  local pod, deadline = string.match(entries[i + 1], '^(%d+) (%d+)$')
  if pod and (deadline == '0' or tonumber(deadline) > now_ms) then
    found[#found + 1] = entries[i]
    found[#found + 1] = tonumber(pod)
  end
end
return found

-- What the scripts that write the state of a pod share. KEYS[1] is the hash of the pods of a service.
--
-- An entry is "<incarnation> <sequence> <time> <lease> <state> <report>": the time in milliseconds since 1970 by
-- the clock of Redis, the lease in milliseconds, the routing state or DEAD, and the report of the pod as JSON.

local MAX_EXACT = 9007199254740991
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function integer(number)
  return string.format('%.0f', number)
end

local function parse_pod(entry)
  local incarnation, sequence, at_ms, lease_ms, state =
    string.match(entry or '', '^(%d+) (%d+) (%d+) (%d+) ([A-Z_]+) ')
  if not incarnation or tonumber(incarnation) >= MAX_EXACT then return nil end
  return {
    incarnation = tonumber(incarnation), sequence = tonumber(sequence),
    at_ms = tonumber(at_ms), lease_ms = tonumber(lease_ms), state = state,
  }
end

local function write_pod(pod, incarnation, sequence, lease_ms, state, report, retention_ms)
  redis.call('HSET', KEYS[1], pod, integer(incarnation) .. ' ' .. sequence .. ' ' .. integer(now_ms) .. ' '
    .. lease_ms .. ' ' .. state .. ' ' .. report)
  redis.call('PEXPIRE', KEYS[1], retention_ms)
end

-- Tells the clients of the namespace that the routing state of a pod, or its life, is another one.
local function announce(channel, service, pod, incarnation, state)
  redis.pcall('PUBLISH', channel, 'pod ' .. service .. ' ' .. pod .. ' ' .. integer(incarnation) .. ' ' .. state)
end

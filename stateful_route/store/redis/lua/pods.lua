-- Reads what has changed in the pods of a service since the version that the caller has, or all of them if it has
-- none, one from the future, or one from too long ago; the clock at that moment, which leases have ended, and when the
-- next one ends (0: none does); when the table was made, and until when uids without a link are not placed
-- (lua/shared/pod.lua). With `also`, "pod,pod", the entries of those pods come with the changes. With `since` "" no changes
-- come, and no version, but how many pods are not dead.
-- keys: pods versions deadlines
-- args: since also
-- returns: now_ms version digest whole next_deadline_ms living overdue entries born held_ms settling_ms
-- writes: no
-- rerun: safe
-- cost: 3 commands, 5 if pods have changed and 5 if leases have ended, whatever the number of pods; HGETALL for all;
-- one more if none is alive
local MOST = 1000
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local since = tonumber(ARGV[1])
local version, digest, whole, changed = nil, nil, false, {}
local born, held_ms, settling_ms
local overdue = {}
local first = redis.pcall('ZRANGEBYSCORE', KEYS[3], '-inf', '(inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first.err and not string.find(first.err, 'WRONGTYPE') then return first end
local blind = first.err ~= nil
if blind then
  first = {}
elseif first[2] and tonumber(first[2]) <= now_ms then
  overdue = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms)
  first = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now_ms, '(inf', 'WITHSCORES', 'LIMIT', 0, 1)
elseif not first[2] then
  blind = redis.call('EXISTS', KEYS[3]) == 0
end
if since then
  local told = redis.call('HGET', KEYS[1], 'table') or ''
  version, digest = string.match(told, '^(%d+) (%d+)')
  born, held_ms, settling_ms = string.match(told, '^%d+ %d+ %d+ %d+ %d+ (%d+) (%d+) (%d+)')
  -- Without the deadlines, which the next write makes again, the caller has to look at each pod.
  whole = since == 0 or not version or since > tonumber(version) or blind
  if not whole and since < tonumber(version) then
    changed = redis.pcall('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'LIMIT', 0, MOST + 1)
    whole = changed.err ~= nil or #changed > MOST
  end
end
local entries = {}
if whole then
  entries = redis.call('HGETALL', KEYS[1])
else
  local named = {}
  for _, pod in ipairs(changed) do named[pod] = true end
  for pod in string.gmatch(ARGV[2], '%d+') do
    if not named[pod] then changed[#changed + 1] = pod end
  end
  if #changed > 0 then
    local found = redis.call('HMGET', KEYS[1], unpack(changed))
    for i, pod in ipairs(changed) do
      if found[i] then
        entries[#entries + 1] = pod
        entries[#entries + 1] = found[i]
      end
    end
  end
end
local next_ms = tonumber(first[2] or 0)
local living = (since or blind) and 0 or redis.call('ZCOUNT', KEYS[3], '-inf', '(inf')
version, digest, whole = tonumber(version or 0), tonumber(digest or 0), whole and 1 or 0
born, held_ms, settling_ms = tonumber(born or 0), tonumber(held_ms or 0), tonumber(settling_ms or 0)
return { now_ms, version, digest, whole, next_ms, living, overdue, entries, born, held_ms, settling_ms }

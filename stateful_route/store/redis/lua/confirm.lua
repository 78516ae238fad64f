-- Confirms the death of a life of a pod, which is final, and announces it: the life is the newest of its pod and either
-- said goodbye or let its lease pass; or the pod is not known at all, and gets an entry that says so.
-- A server that may have taken another's place ends no life before the caller has known it for the lease of that life: so
-- long a pod may own that was heard at the other one.
-- A lease that passed while no pod at all was heard counts half a lease later: the store may have refused heartbeats.
-- keys: pods versions deadlines
-- args: pod incarnation retention_ms channel known_ms?
-- returns: dead
-- writes: yes
-- rerun: safe
-- cost: 12 commands
-- include: pod
-- include: death
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local known = entry and parse_pod(entry)
local incarnation = tonumber(ARGV[2])
if entry and not known then return { 0 } end
if known and known.state == 'DEAD' then
  if known.incarnation >= incarnation then return { 1 } end
elseif known then
  if known.incarnation ~= incarnation then return { 0 } end
  if known.at_ms > now_ms then
    leave_future()
    known = parse_pod(redis.call('HGET', KEYS[1], ARGV[1]))
  end
  -- It says no goodbye while an older life of the pod may still own.
  local ends_ms = math.max(known.at_ms + known.lease_ms, known.free_ms)
  if known.state ~= 'SHUTDOWN' then
    if ends_ms > now_ms or (ARGV[5] and tonumber(ARGV[5]) < known.lease_ms) then return { 0 } end
  end
end
open_pods()
if known and known.state ~= 'SHUTDOWN' and known.state ~= 'DEAD' then
  -- A server refuses writes, and answers readings, if it lacks memory, disk or replicas; it may just have ended that.
  local half, heard = known.lease_ms / 2, heard_ms()
  if now_ms - heard > half and pods.silent_ms <= heard then
    pods.silent_ms, pods.began_ms = now_ms, heard
    redis.call('HSET', KEYS[1], 'table', own_field())
  end
  -- One that began when the lease had long ended is no excuse, lest a pod that is late each time keep the dead alive.
  local excused = pods.began_ms < known.at_ms + known.lease_ms + half
  if excused and pods.silent_ms <= now_ms and now_ms < pods.silent_ms + half then return { 0 } end
end
local dead = known or { sequence = 0, at_ms = now_ms, lease_ms = 1, version = 0, load = '0', links = '0', placed = '0',
  process = '-', free_ms = 0, rest = '{}' }
-- Of a life that is not known nothing was said: not the goodbye of an older one either.
if known and known.incarnation ~= incarnation then dead.rest = '{}' end
dead.incarnation = incarnation
write_death(ARGV[1], dead, known ~= nil, tonumber(ARGV[3]), ARGV[4])
return { 1 }
